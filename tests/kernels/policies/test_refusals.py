"""What scores, pooling and tables refuse, each with an input that triggers only that branch."""

import numpy as np
import pytest
import torch

from septet.kernels.policies import (
    CAKE,
    TOVA,
    AdaKV,
    DuoAttention,
    FullCache,
    PyramidKV,
    Random,
    SnapKV,
    StreamingLLM,
    allocate,
    build_policy,
    replay,
)
from septet.kernels.policies.scores import group_reduce, pool, preference


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool(torch.ones(1, 8), 4), "kernel_size = 4 must be odd; use 5"),
        (lambda: pool(torch.ones(1, 8), 5, "sum"), "unknown pooling 'sum'; choose avg or max"),
        (lambda: group_reduce(torch.ones(1, 4, 8), 2, "min"), "unknown group_reduce 'min'; choose mean or max"),
        (lambda: group_reduce(torch.ones(1, 4, 8), 3), "4 query heads do not divide over 3 KV heads"),
        (lambda: preference(torch.ones(2), torch.ones(2), 1.0, -1.0), "tau2 = -1.0 must be positive"),
        (lambda: allocate(torch.ones(2, 2), 4, 4), r"preference has shape \(2, 2\)"),
        (lambda: allocate([float("inf")], 4, 4), "infinite"),
        (lambda: SnapKV(64, kernel_size=2), "kernel_size = 2 must be odd; use 3"),
        (lambda: SnapKV(16, window=32), "capacity 16 must exceed the window 32; raise capacity or shrink window"),
        (lambda: CAKE(gamma=float("nan")), "gamma = nan must be a finite number"),
        (lambda: CAKE(gamma=-1.0), "gamma = -1.0 must not be negative"),
        (lambda: CAKE(tau1=float("nan")), "tau1 = nan must be a finite number"),
        (lambda: CAKE(tau2=float("inf")), "tau2 = inf must be a finite number"),
        (lambda: CAKE(capacity=64.5), "capacity = 64.5 must be a whole number"),
        (lambda: CAKE(capacity="64"), "capacity = '64' must be a whole number"),
        (lambda: CAKE(sinks=1.5), "sinks = 1.5 must be a whole number"),
        (lambda: PyramidKV(beta=0), "beta = 0 must be at least 1"),
        (lambda: PyramidKV(beta=-1), "beta = -1 must be at least 1"),
        (lambda: AdaKV(floor=float("nan")), "floor = nan must be a finite number"),
        (lambda: StreamingLLM(64, sinks=0.5), "sinks = 0.5 must be a whole number"),
        (lambda: TOVA(8.0), "capacity = 8.0 must be a whole number"),
        (lambda: Random(seed=None), "seed = None must be a whole number"),
        (lambda: DuoAttention([[1.0]], recent=1.5), "recent = 1.5 must be a whole number"),
        (lambda: DuoAttention([[1.0]], sparsity=float("nan")), "sparsity = nan must be a finite number"),
        (lambda: replay(FullCache(), torch.ones(1, 1, 2, 5, 4), torch.ones(1, 1, 1, 6, 4)), "must share"),
        (lambda: replay(FullCache(), torch.ones(1, 2, 5, 4), torch.ones(1, 1, 1, 5, 4)), "must share"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_full_cache_scores_nothing():
    with pytest.raises(NotImplementedError, match="FullCache keeps everything"):
        FullCache().score(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 3, 4), 0, [0])


def test_tables_on_disk(tmp_path):
    np.savez(tmp_path / "heads.npz", one=np.ones((2, 4)), two=np.ones((2, 4)))
    spec = {"name": "headkv", "n_kv_heads": 2, "capacity": 64}
    with pytest.raises(ValueError, match=r"name one as .*heads.npz:NAME"):
        build_policy({**spec, "scores": str(tmp_path / "heads.npz")})
    with pytest.raises(ValueError, match=r"nowhere.npz does not exist; .*mit-han-lab/duo-attention"):
        build_policy({**spec, "scores": str(tmp_path / "nowhere.npz")})
    assert np.shape(build_policy({**spec, "scores": f"{tmp_path / 'heads.npz'}:two"}).table) == (2, 2)
