"""A process's part of an ordinary Hugging Face model: cut on the meta device first, then only its slices are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from septet.kernels.placement import HeadPlan
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.cake.pretrained import config_from_hf, locate
from septet.lightning_modules.strategies.checkpoints import SlicedCheckpoint, can_slice
from septet.lightning_modules.strategies.head_parallel import ProcessShard, parallelise


@dataclass(frozen=True)
class LoadReport:
    """What one process materialised while it loaded.

    Attributes:
        read_bytes: slices read from the files.
        file_bytes: all tensors of the files.
        weight_bytes: parameters held afterwards.
        largest_read: the largest single slice.
    """

    read_bytes: int
    file_bytes: int
    weight_bytes: int
    largest_read: int

    @property
    def peak_bytes(self) -> int:
        """Most bytes alive at once: the parameters and one slice on its way."""
        return self.weight_bytes + self.largest_read

    def line(self, rank: int) -> str:
        """One line for the log."""
        return (
            f"fairkv: process {rank} read {self.read_bytes / 2**20:.1f} of {self.file_bytes / 2**20:.1f} MiB of "
            f"weights and holds {self.weight_bytes / 2**20:.1f} MiB (largest slice {self.largest_read / 2**20:.1f} MiB)"
        )


def whole_weights_reason(name: str) -> str | None:
    """Why a model cannot be read in slices, None if it can.

    Args:
        name: of a local model, as ``LongContextModule`` takes it.
    """
    folder, gguf = locate(name)
    if gguf is None and can_slice(folder):
        return None
    kind = f"{gguf} is a GGUF file" if gguf else f"{folder} holds neither .safetensors nor pytorch_model*.bin files"
    return (
        f"{kind}, which cannot be read in slices: every process loads the whole model and cuts it then; write it once "
        "as safetensors: septet.lightning_modules.strategies.export_safetensors(MODEL, FOLDER)"
    )


def load_cut(
    name: str,
    plan_of: Callable[[DecoderConfig], HeadPlan],
    group: Any,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> tuple[CausalLM, LoadReport]:
    """This process's part of a local model; no process holds all of it at any time.

    Embedding, norms and output head are replicated; q, k, v, o and the MLP are read by slices.

    Args:
        name: a folder with ``.safetensors`` (or ``pytorch_model*.bin``) files, one or several with an index.
        plan_of: gives the plan for the model's shape.
        group: process group.
        device: where the weights go.
        dtype: of the weights; files of another dtype are converted slice by slice.

    Raises:
        ValueError: a model that cannot be sliced, files that are missing or do not fit, a plan for another model.
    """
    reason = whole_weights_reason(name)
    if reason is not None:
        raise ValueError(reason)
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ImportError("fairkv needs the kv extra: pip install 'septet[kv]'") from error
    folder: Path = locate(name)[0]
    shape = config_from_hf(AutoConfig.from_pretrained(folder))
    files = SlicedCheckpoint(folder)
    with torch.device("meta"):
        model = CausalLM(shape).to(dtype)
    parallelise(model, plan_of(shape), group)
    model.to_empty(device=device)
    if shape.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.reset_rope()
    assert isinstance(model.shard, ProcessShard)
    model.shard.device = device
    model.load_hf_state_dict(files)
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    return model.eval(), LoadReport(files.bytes_read, files.total_bytes(), held, files.largest_read)
