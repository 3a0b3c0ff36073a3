"""Recall kernels against the golden values, the loops and float64 differences."""

from __future__ import annotations

import json

import pytest
import torch
from tests.support.paths import golden

from septet.kernels.recall import dense_recall, gated_recall, gated_recall_reference, topk, topk_reference


def load(name):
    return json.loads(golden("smap", "numeric.json").read_text())[name]


def arguments(case, dtype):
    t = {k: torch.tensor(case[k], dtype=dtype) for k in ("query", "keys", "values", "prior", "temperature", "gate")}
    mask = None if case["mask"] is None else torch.tensor(case["mask"])
    owner = torch.tensor(case["owner"], dtype=torch.int64)
    return (t["query"], t["keys"], owner, t["values"], t["prior"]), {
        "temperature": t["temperature"], "gate": t["gate"], "tau": case["tau"], "mask": mask,
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
@pytest.mark.parametrize("recall", [gated_recall, gated_recall_reference])
def test_gated_recall_equals_the_golden_values(recall, dtype, tolerance):
    for case in load("gated_recall"):
        positional, named = arguments(case, dtype)
        expected = torch.tensor(case["expected"], dtype=dtype)
        torch.testing.assert_close(recall(*positional, **named), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("nearest", [topk, topk_reference])
def test_topk_equals_the_golden_values(nearest):
    case = load("topk")
    query, keys = (torch.tensor(case[k], dtype=torch.float64) for k in ("query", "keys"))
    distance, index = nearest(query, keys, case["k"])
    assert index.tolist() == case["index"]
    torch.testing.assert_close(distance, torch.tensor(case["distance"], dtype=torch.float64), atol=1e-9, rtol=0)
    few = topk(query, keys, 2)[1]
    assert few.tolist() == [row[:2] for row in case["index"]]


def test_gradients_are_those_of_float64_differences():
    case = load("gated_recall")[0]
    (query, keys, owner, values, prior), named = arguments(case, torch.float64)
    inputs = [x.requires_grad_() for x in (query, keys, values, prior, named["temperature"], named["gate"])]

    def call(q, k, v, p, t, g):
        return gated_recall(q, k, owner, v, p, temperature=t, gate=g, tau=named["tau"], mask=named["mask"])

    assert torch.autograd.gradcheck(call, inputs)


def test_a_key_on_the_query_has_a_finite_gradient():
    query = torch.zeros(1, 1, 2, requires_grad=True)
    one = torch.zeros(1)
    gated_recall(
        query, torch.zeros(1, 1, 2), torch.tensor([0]), torch.ones(1), one, temperature=one, gate=one, tau=1.0
    ).sum().backward()
    assert torch.isfinite(query.grad).all()


def test_dense_recall_equals_the_records_one_by_one():
    g = torch.Generator().manual_seed(0)
    heads, queries, columns, models, width = 2, 3, 5, 4, 3
    draw = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64)  # noqa: E731
    query, keys, values, prior = (
        draw(heads, queries, width),
        draw(heads, columns, width),
        draw(columns, models),
        draw(queries, models),
    )
    seen, mask = torch.rand(columns, models, generator=g) > 0.3, torch.rand(queries, columns, generator=g) > 0.3
    seen[:, 3] = False
    mask[2] = False
    named = {"temperature": draw(heads), "gate": draw(heads), "tau": 1.3}
    found, attention = dense_recall(query, keys, values, seen, prior, mask=mask, **named)
    c, owner = torch.nonzero(seen, as_tuple=True)
    expected = gated_recall(query, keys[:, c], owner, values[c, owner], prior, mask=mask[:, c], **named)
    torch.testing.assert_close(found, expected)
    assert bool((attention[:, ~mask] == 0).all())
    torch.testing.assert_close(found[2], prior[2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"tau": 0.0}, "tau is 0"),
        ({"values": torch.zeros(3)}, "owner"),
        ({"keys": torch.zeros(1, 2, 5)}, "query"),
        ({"owner": torch.tensor([0, 7])}, "owner holds"),
        ({"prior": torch.zeros(4, 2)}, "prior is"),
        ({"gate": torch.zeros(2)}, "one per head"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, "mask is"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    named = {
        "query": torch.zeros(1, 1, 3), "keys": torch.zeros(1, 2, 3), "owner": torch.tensor([0, 1]),
        "values": torch.zeros(2), "prior": torch.zeros(2), "temperature": torch.zeros(1), "gate": torch.zeros(1),
        "tau": 1.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=match):
        gated_recall(**{**named, **change})


def test_topk_refuses_more_than_there_is():
    with pytest.raises(ValueError, match="k is 3"):
        topk(torch.zeros(1, 2), torch.zeros(2, 2), 3)
    with pytest.raises(ValueError, match="must be"):
        topk(torch.zeros(1, 2), torch.zeros(2, 3), 1)
