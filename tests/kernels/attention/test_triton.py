"""The Triton kernels in their interpreter; it must be chosen before triton is imported, hence another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = r"""
import torch
from septet.kernels.attention import decode_attention
from septet.kernels.attention.triton import Launch, attend_triton
from septet.kernels.cache import RaggedLayer
from septet.kernels.policies import window_stats

torch.manual_seed(0)

def layer_of(lengths, dim, dtype):
    draw = lambda: [[torch.randn(n, dim).to(dtype) for n in row] for row in lengths]
    return RaggedLayer(draw(), draw())

cases = [([[1, 300], [77, 130]], 4, 64, torch.float32, 1e-5), ([[5, 64, 65]], 3, 80, torch.float32, 1e-5),
         ([[40, 200]], 1, 16, torch.bfloat16, 2e-2), ([[0, 90]], 2, 32, torch.float32, 1e-5)]
for lengths, group, dim, dtype, limit in cases:
    layer = layer_of(lengths, dim, dtype)
    heads = len(lengths[0])
    query = torch.randn(len(lengths), heads * group, 1, dim).to(dtype)
    for _ in range(2):
        truth = decode_attention(query.double(), layer, backend="reference", allow_empty=True)
        out = decode_attention(query, layer, backend="triton", allow_empty=True)
        torch.testing.assert_close(out.double(), truth, rtol=limit, atol=limit)
        small = attend_triton(query, layer, None, Launch(block=32, items_per_multiprocessor=1))
        torch.testing.assert_close(small.double(), truth, rtol=limit, atol=limit)
        layer.append(torch.randn(len(lengths), heads, 1, dim), torch.randn(len(lengths), heads, 1, dim))
        layer.compact([[torch.arange(0, layer.length(b, h), 2) if h == 0 else None for h in range(heads)]
                       for b in range(len(lengths))])

for batch, heads, kv, rows, dim, length in [(2, 8, 2, 8, 16, 200), (1, 6, 2, 5, 80, 1100), (1, 4, 4, 4, 16, 4)]:
    query, key = torch.randn(batch, heads, rows, dim), torch.randn(batch, kv, length, dim)
    truth = window_stats(query.double(), key.double(), backend="reference")
    for ours, theirs in zip(window_stats(query, key, backend="triton"), truth):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)
print("checked")
"""


def test_kernels_in_the_interpreter():
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[3] / "src"), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "checked"
