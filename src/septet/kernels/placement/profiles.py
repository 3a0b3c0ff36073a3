"""Head profiles from files, and published scores and gates turned into kept tokens."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_profile(path: str | Path, name: str | None = None) -> Tensor:
    """A profile ``(L, H)`` float64 from an .npz with one array (or the named one) or a .tsv.

    Raises:
        ValueError: if the file is missing, damaged, ambiguous or not a table of finite numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"no head profile {str(file)!r} (.npz or .tsv)")
    if file.suffix not in (".npz", ".tsv"):
        raise ValueError(f"head profile {file}: write it as .npz (one array) or .tsv (blanks between numbers)")
    if file.stat().st_size == 0:
        raise ValueError(f"head profile {file} is empty; write it anew")
    try:
        values = _read_npz(file, name) if file.suffix == ".npz" else np.loadtxt(file, ndmin=2)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"head profile {file} is damaged ({error}); write it anew") from error
    except ValueError as error:
        raise ValueError(f"head profile {file}: {error}") from error
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{file}: a profile is (layers, heads), got shape {values.shape}")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{file}: a profile holds numbers (kept tokens per sequence), not {values.dtype}")
    if not np.isfinite(values).all() or (values < 0).any():
        layer, head = np.argwhere(~np.isfinite(values) | (values < 0))[0]
        raise ValueError(
            f"{file}: layer {layer}, head {head} is {values[layer, head]}; a profile holds finite numbers (kept tokens "
            "per sequence), none negative"
        )
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def _read_npz(file: Path, name: str | None) -> np.ndarray:
    with np.load(file) as arrays:
        if name is None and len(arrays.files) != 1:
            raise ValueError(f"it holds {', '.join(arrays.files)}; name one of them")
        if name is not None and name not in arrays.files:
            raise ValueError(f"it holds {', '.join(arrays.files)}, not {name}")
        return np.asarray(arrays[name or arrays.files[0]])


def group_mean(profile: Tensor, n_kv_heads: int) -> Tensor:
    """Mean over the query heads of each KV head: ``(L, H_q)`` to ``(L, H_kv)``.

    Raises:
        ValueError: if H_q is no multiple of H_kv.
    """
    if profile.shape[1] % n_kv_heads:
        raise ValueError(f"{profile.shape[1]} heads do not group into {n_kv_heads} KV heads")
    return profile.view(profile.shape[0], n_kv_heads, -1).mean(dim=2)


def headkv_tokens(scores: Tensor, capacity: int = 1024, window: int = 8, beta: float = 1.2) -> Tensor:
    """Kept tokens of HeadKV's scores: a floor for each head plus its share of the common pool (specs: golden README).

    Args:
        scores: ``(L, H)`` importance scores.
        capacity: mean kept tokens per head.
        window: recent tokens that always stay.
        beta: the pool is 1 / beta of the capacity beyond the window.
    """
    layers, heads = scores.shape
    base = capacity - window
    pool = int(base / beta)
    floor = base - pool
    share = scores / scores.sum()
    return torch.round(share * pool * layers * heads + floor) + window


def duo_tokens(gates: Tensor, length: int = 32768, streaming: int = 320, sparsity: float = 0.5) -> Tensor:
    """Kept tokens of DuoAttention's gates: heads above the quantile keep everything, the others sink and recent."""
    threshold = torch.quantile(gates.flatten(), sparsity)
    return torch.where(gates > threshold, float(length), float(streaming)).to(torch.float64)
