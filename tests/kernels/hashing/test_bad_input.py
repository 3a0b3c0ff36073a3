"""Each error names the value and the remedy."""

import pytest
import torch

from septet.kernels.hashing import (
    HashNeighborMemory,
    TemporalNeighborIndex,
    co_occurrence,
    group_offsets,
    structure_pass,
)

ONE = torch.tensor([1, 2])
TIME = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((ONE, ONE, torch.tensor([5, 3])), r"decrease at event 1 \(3 after 5\): sort by time, stable"),
        ((ONE, ONE, torch.tensor([0.0, float("nan")])), "time 1 is NaN"),
        ((torch.tensor([0, 1]), ONE, TIME), "src holds node id 0: ids start at 1"),
        ((ONE, ONE, torch.tensor([0])), "unequal lengths: src 2, dst 2, time 1"),
        ((ONE, ONE, TIME, None, 1), "src holds node id 2, above num_nodes=1"),
    ],
)
def test_index(columns: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalNeighborIndex(*columns)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"long": 0, "short": 1}, "long=0 is outside 1..255"),
        ({"long": 256}, "long=256 is outside 1..255"),
        ({"long": 3}, "short=0 is below 1"),
        ({"short": 256}, "short=256 is above 255"),
        ({"kind": "polynomial"}, "unknown hash kind 'polynomial'"),
        ({"padding": "zero"}, "unknown padding 'zero'"),
        ({"backend": "fpga"}, "unknown backend 'fpga'"),
        ({"num_nodes": 0}, "num_nodes=0 is outside"),
        ({"num_nodes": 2**31 - 1, "long": 255}, "the table needs .* bytes"),
    ],
)
def test_memory(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashNeighborMemory(**{"num_nodes": 5, **kwargs})


def test_restore_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"snapshot of shape \(3, 4\)"):
        HashNeighborMemory(5).restore(torch.zeros(3, 4))


def test_encode_checks_ids_and_sizes() -> None:
    memory, seq = HashNeighborMemory(5), torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match="src_seq holds node id 9"):
        memory.encode(torch.tensor([1]), torch.tensor([2]), torch.tensor([[9]]), seq)
    with pytest.raises(ValueError, match="unequal batch sizes"):
        memory.encode(torch.tensor([1, 2]), torch.tensor([2]), seq, seq)
    with pytest.raises(ValueError, match="unknown write order 'random'"):
        memory.update(torch.tensor([1]), torch.tensor([2]), seq, seq, order="random")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"granularity": 0}, "granularity 0 is below 1"),
        ({"granularity": "day"}, "unknown granularity 'day'"),
        ({"order": "size"}, "unknown write order 'size'"),
        ({"length": 0}, "sequence length 0 is below 1"),
        ({"query_dst": torch.tensor([[6], [1]])}, "query_dst holds node id 6, above num_nodes=5"),
        ({"query_dst": torch.tensor([[2, 1], [1, 1]])}, r"two \(E, Q\) tensors"),
        ({"time": torch.tensor([1, 0])}, "times decrease"),
    ],
)
def test_pass(kwargs: dict, message: str) -> None:
    index = TemporalNeighborIndex(ONE, ONE, TIME, num_nodes=5)
    arguments = {"query_src": ONE[:, None], "query_dst": ONE[:, None], "time": TIME, "length": 3, **kwargs}
    pair = arguments.pop("time"), arguments.pop("query_src"), arguments.pop("query_dst")
    with pytest.raises(ValueError, match=message):
        structure_pass(HashNeighborMemory(5), index, ONE, ONE, *pair, **arguments)


def test_other_shapes() -> None:
    with pytest.raises(ValueError, match="0 neighbours asked"):
        TemporalNeighborIndex(ONE, ONE, TIME).recent(ONE, TIME, 0)
    with pytest.raises(ValueError, match="unequal lengths"):
        co_occurrence(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="unknown granularity True"):
        group_offsets(TIME, True)
