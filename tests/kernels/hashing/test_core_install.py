"""Without numba the torch backend takes over, and asking for native code says what is missing."""

import importlib

import pytest
import torch

from septet.kernels.hashing import HashNeighborMemory
from tests.kernels.hashing.test_properties import features, random_stream


def test_without_numba(monkeypatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None):
        if name == "numba":
            raise ImportError("numba is not installed")
        return real(name, package)

    want, table = features(*random_stream())
    monkeypatch.setattr(importlib, "import_module", absent)
    assert HashNeighborMemory(5).engine() == "torch"
    got, other = features(*random_stream())
    assert torch.equal(got.src_feat, want.src_feat)
    assert torch.equal(other, table)
    one = torch.tensor([1])
    with pytest.raises(ImportError, match=r"pip install 'septet\[graph\]'"):
        HashNeighborMemory(5, backend="native").update(one, one + 1, one[None], one[None])
