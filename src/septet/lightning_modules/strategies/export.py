"""Local weights of any readable format (GGUF too) written as sharded safetensors, which processes read in slices."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from septet.lightning_modules.cake.pretrained import locate
from septet.lightning_modules.strategies.checkpoints import INDEX


def export_safetensors(
    name: str, folder: str | Path, *, dtype: torch.dtype = torch.float32, shard_bytes: int = 2**30
) -> Path:
    """Write a local model as a Hugging Face folder: ``config.json``, shards and their index.

    Args:
        name: a folder, a folder with one ``.gguf``, or "smollm2".
        folder: made if it is absent.
        dtype: of the written weights.
        shard_bytes: a shard is closed when the next tensor would pass this size.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such model, or the folder holds weights already.
    """
    source, gguf = locate(name)
    target = Path(folder)
    if any(target.glob("*.safetensors")):
        raise ValueError(f"{target} holds .safetensors files already; give an empty folder")
    try:
        from safetensors.torch import save_file
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise ImportError("fairkv needs the kv extra: pip install 'septet[kv]'") from error
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=dtype)
    target.mkdir(parents=True, exist_ok=True)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are whole now
    model.config.save_pretrained(target)
    state = {n: p for n, p in model.state_dict().items() if not (n == "lm_head.weight" and _tied(model.config))}
    parts = _shards(state, shard_bytes)
    table: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        save_file({n: t.contiguous() for n, t in part.items()}, target / file, metadata={"format": "pt"})
        table |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in state.values())
    (target / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": table}, indent=1) + "\n")
    return target


def _tied(config: object) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _shards(state: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Tensors in order, cut into parts of at most ``limit`` bytes (one tensor may be larger)."""
    parts: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if parts[-1] and used + size > limit:
            parts.append({})
            used = 0
        parts[-1][name] = tensor
        used += size
    return parts
