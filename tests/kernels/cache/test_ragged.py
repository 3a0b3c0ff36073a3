import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.cache import RaggedLayer


def parts(lengths, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(n, dim, generator=generator) for n in row] for row in lengths]


def test_storage_and_positions():
    keys, values = parts([[3, 0], [5, 2]]), parts([[3, 0], [5, 2]], seed=1)
    layer = RaggedLayer(keys, values)
    assert layer.lengths.dtype == torch.int32
    assert layer.lengths.tolist() == [[3, 0], [5, 2]]
    assert torch.equal(layer.keys(1, 0), keys[1][0])
    assert torch.equal(layer.values(1, 1), values[1][1])
    assert layer.positions(1, 0).tolist() == [0, 1, 2, 3, 4]
    assert layer.memory_bytes() == 10 * 2 * 4 * 4
    assert layer.dense() is None


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_sequence_of_appends_and_compactions(data):
    """The layer equals plain lists of tensors, whatever happens to it."""
    lengths = data.draw(st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=2), min_size=2, max_size=2))
    keys, values = parts(lengths), parts(lengths, seed=1)
    layer = RaggedLayer(keys, values, reserve=data.draw(st.integers(0, 3)))
    spots = [[torch.arange(n) for n in row] for row in lengths]
    for step in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            count = data.draw(st.integers(1, 50))
            k, v = torch.randn(2, 2, count, 4), torch.randn(2, 2, count, 4)
            where = torch.arange(count).expand(2, -1) + 1000 * (step + 1)
            layer.append(k, v, where)
            for b in range(2):
                for h in range(2):
                    keys[b][h], values[b][h] = torch.cat([keys[b][h], k[b, h]]), torch.cat([values[b][h], v[b, h]])
                    spots[b][h] = torch.cat([spots[b][h], where[b]])
        else:
            keep = [[None, None], [None, None]]
            for b in range(2):
                for h in range(2):
                    n = len(keys[b][h])
                    if data.draw(st.booleans()):
                        order = torch.randperm(n)[: data.draw(st.integers(0, n))]
                        keep[b][h] = order
                        keys[b][h], values[b][h], spots[b][h] = (x[b][h][order] for x in (keys, values, spots))
            layer.compact(keep)
    for b in range(2):
        for h in range(2):
            assert torch.equal(layer.keys(b, h), keys[b][h])
            assert torch.equal(layer.values(b, h), values[b][h])
            assert torch.equal(layer.positions(b, h), spots[b][h])
    assert layer.memory_bytes() == sum(len(k) for row in keys for k in row) * 32


def test_default_positions_follow_the_last():
    layer = RaggedLayer(parts([[2, 1]]), parts([[2, 1]]), [[torch.tensor([3, 9]), torch.tensor([7])]])
    layer.append(torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))
    assert layer.positions(0, 0).tolist() == [3, 9, 10, 11]
    assert layer.positions(0, 1).tolist() == [7, 8, 9]


def test_append_within_slack_does_not_move_the_buffer():
    layer = RaggedLayer(parts([[100, 100]]), parts([[100, 100]]))
    address, version = layer.flat[0].data_ptr(), layer.version
    for _ in range(30):
        layer.append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4))
    assert (layer.flat[0].data_ptr(), layer.version) == (address, version)
    layer.append(torch.ones(1, 2, 9, 4), torch.ones(1, 2, 9, 4))
    assert layer.version == version + 1
    assert layer.lengths.tolist() == [[139, 139]]


def test_append_to_some_segments():
    layer = RaggedLayer(parts([[2, 2]]), parts([[2, 2]]))
    layer.append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), mask=torch.tensor([[True, False]]))
    assert layer.lengths.tolist() == [[3, 2]]
    assert layer.lengths_tensor.tolist() == [[3, 2]]


def test_masked_appends_follow_the_mask_and_end_the_dense_view():
    keys = parts([[2, 2], [2, 2]])
    layer, mask = RaggedLayer(keys, keys), torch.tensor([[True, True], [True, False]])
    for count in (1, 3):
        new = torch.randn(2, 2, count, 4)
        layer.append(new, new, mask=mask)
        assert torch.equal(layer.keys(1, 0)[-count:], new[1, 0])
    assert layer.lengths.tolist() == layer.lengths_tensor.tolist() == [[6, 6], [6, 2]]
    assert (layer.max_length(), layer.min_length(), layer.live_tokens()) == (6, 2, 20)
    assert layer.positions(0, 1).tolist() == list(range(6))
    assert layer.dense() is None
    mask.fill_(False)
    mask[1, 1] = True
    layer.append(torch.zeros(2, 2, 4, 4), torch.zeros(2, 2, 4, 4), mask=mask)
    assert layer.lengths.tolist() == [[6, 6], [6, 6]]
    assert layer.dense() is not None
    assert torch.equal(layer.keys(0, 0)[:2], keys[0][0])


def test_padded_slots_of_some_sequences():
    keys = parts([[3, 1], [5, 2], [4, 4]])
    layer = RaggedLayer(keys, keys)
    slots, live = layer.padded_slots([0, 2])
    assert slots.shape == (2, 2, 4)
    assert live.sum(-1).tolist() == [[3, 1], [4, 4]]
    assert torch.equal(layer.flat[0][slots[1, 1]], keys[2][1])


def test_dense_and_padded_views():
    keys = parts([[6, 6], [6, 6]])
    layer = RaggedLayer(keys, keys)
    dense = layer.dense()
    assert dense is not None
    assert torch.equal(dense[0], torch.stack([torch.stack(row) for row in keys]))
    layer.compact([[torch.tensor([5, 1]), None], [None, None]])
    assert layer.dense() is None
    padded, _, live = layer.padded()
    assert live.sum(-1).tolist() == [[2, 6], [6, 6]]
    assert torch.equal(padded[0, 0, :2], keys[0][0][[5, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RaggedLayer([], []), "at least one"),
        (lambda: RaggedLayer(parts([[2, 3]]), parts([[2, 2]])), "head 1: keys"),
        (lambda: RaggedLayer(parts([[2], [2, 2]]), parts([[2], [2, 2]])), "every sequence"),
        (lambda: RaggedLayer(parts([[2]]), parts([[2]]), [[torch.arange(3)]]), "3,\\) positions for 2"),
        (lambda: _layer().append(torch.ones(1, 1, 1, 4), torch.ones(1, 2, 1, 4)), "append got"),
        (lambda: _layer().append(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 5)), "append got"),
        (lambda: _layer().compact([[torch.tensor([3]), None]]), "slot out of range for sequence 0, head 0"),
        (lambda: _layer().compact([[torch.tensor([-1]), None]]), "slot out of range"),
        (lambda: _layer().compact([[None]]), "keep must be"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _layer():
    return RaggedLayer(parts([[3, 3]]), parts([[3, 3]]))
