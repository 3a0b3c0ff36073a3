"""The CUDA tables and features equal the reference bit for bit."""

import pytest
import torch

from septet.kernels.hashing import HashNeighborMemory, TemporalNeighborIndex, structure_pass
from tests.kernels.hashing.streams import random_stream

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("padding", ["mask", "node"])
@pytest.mark.parametrize("order", ["event", "phase"])
@pytest.mark.parametrize("granularity", ["timestamp", "event", 7, 200])
def test_cuda_equals_reference(padding: str, order: str, granularity: str | int) -> None:
    src, dst, time = random_stream(num_nodes=40, num_events=600, seed=1)
    asked = torch.randint(1, 41, (len(src), 2), generator=torch.Generator().manual_seed(1))
    results = []
    for device, backend in (("cpu", "reference"), ("cuda", "torch")):
        columns = [c.to(device) for c in (src, dst, time)]
        with torch.device(device):
            memory = HashNeighborMemory(40, long=16, padding=padding, backend=backend)
        index = TemporalNeighborIndex(*columns[:2], columns[2], num_nodes=40)
        query = asked.to(device)
        out = structure_pass(
            memory, index, *columns, columns[0].unsqueeze(1).expand_as(query).contiguous(), query,
            length=6, granularity=granularity, order=order,
        )  # fmt: skip
        results.append((out.src_feat.cpu(), out.dst_feat.cpu(), memory.table.cpu()))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
