import pytest
import torch

from septet.kernels.policies import indicator, preference, window_stats
from septet.kernels.policies.scores import column_sums, last_row
from septet.kernels.policies.stats import window_stats_torch


def draw(batch=2, heads=6, kv=2, rows=5, length=37, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, heads, rows, dim, generator=generator) * 2,
        torch.randn(batch, kv, length, dim, generator=generator),
    )


@pytest.mark.parametrize("chunk", [3, 32, 100])
@pytest.mark.parametrize("length", [5, 6, 37, 64])
def test_torch_equals_reference(length, chunk):
    query, key = draw(length=length)
    truth = window_stats(query.double(), key.double(), backend="reference")
    for ours, theirs in zip(window_stats_torch(query, key, chunk=chunk), truth, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)


def test_by_hand():
    """One head, two rows, equal keys: row i spreads evenly over what it sees."""
    stats = window_stats(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 4, 4))
    rows = torch.tensor([[1 / 3, 1 / 3], [1 / 4, 1 / 4]])
    torch.testing.assert_close(stats.mean[0, 0], rows.mean(0))
    torch.testing.assert_close(stats.var[0, 0], rows.var(0))
    torch.testing.assert_close(stats.dispersion[0], -(rows * rows.log()).sum())
    score = indicator(stats, 1, gamma=0.0, kernel_size=3)
    torch.testing.assert_close(score[0, 0], rows.mean(0).sum().expand(2) / 3)


def test_half_precision_input_is_scored_in_fp32():
    query, key = draw(length=900)
    stats = window_stats(query.half(), key.half())
    assert stats.var.dtype == torch.float32
    assert (stats.var > 0).all()


def test_column_sums_and_last_row():
    query, key = draw(rows=37)
    prob = torch.softmax(
        (query @ key.repeat_interleave(3, 1).transpose(-1, -2) * 8**-0.5).masked_fill(
            torch.ones(37, 37, dtype=torch.bool).triu(1), float("-inf")
        ),
        -1,
    )
    torch.testing.assert_close(column_sums(query, key, chunk=7), prob.sum(2))
    torch.testing.assert_close(last_row(query, key), prob[:, :, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "do not divide"),
        ({"rows": 1}, "window >= 2"),
        ({"length": 4}, "fewer than the window"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        window_stats(*draw(**change))


def test_refuses_backend_and_tau():
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        window_stats(*draw(), backend="cuda")
    with pytest.raises(ValueError, match="must be positive"):
        preference(torch.ones(1), torch.ones(1), 0.0, 1.0)
