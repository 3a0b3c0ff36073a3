"""Whether data, policies, checkpoint and model fit each other, asked before any work."""

from collections.abc import Mapping, Sequence
from typing import Any

from septet.kernels.policies import Policy
from septet.lightning_modules.cake.model import DecoderConfig

_SHAPE = ("n_layers", "hidden_size", "vocab_size", "intermediate_size", "n_heads", "n_kv_heads", "head_dim")
_BYTE_LEVEL = 512
"""No byte-level model has more token ids than this."""


def check_policies(policies: Sequence[Policy], config: DecoderConfig) -> None:
    """Raise ValueError for a head table of another model."""
    for policy in policies:
        policy.check_model(config.n_layers, config.n_kv_heads)


def check_vocabulary(data: Any, vocab_size: int, pretrained: str | None) -> None:
    """Compare the token ids of a ``LongContextText`` with the model's embedding.

    Args:
        data: the datamodule; one without ``largest_id`` is not checked.
        vocab_size: of the model.
        pretrained: name of a local model, None for the built-in one.

    Raises:
        ValueError: an id that the model does not know, or bytes for a pretrained model with words.
    """
    largest, tokenizer = getattr(data, "largest_id", None), getattr(data, "tokenizer_name", "")
    if largest is None:
        return
    if largest >= vocab_size:
        raise ValueError(
            f"the data has token ids up to {largest} (task {data.task!r}, tokenizer {tokenizer!r}), the model knows "
            f"{vocab_size}; take the model's own tokenizer, or a config with vocab_size {largest + 1} or more"
        )
    if pretrained is not None and tokenizer == "bytes" and vocab_size > _BYTE_LEVEL:
        raise ValueError(
            f"tokenizer 'bytes' is not that of {pretrained!r} ({vocab_size} token ids); set the data's tokenizer to it"
        )


def check_checkpoint(checkpoint: Mapping[str, Any], config: DecoderConfig | None, pretrained: str | None) -> None:
    """Compare the shape in a checkpoint's hyperparameters with the model's.

    Raises:
        ValueError: another shape, or a pretrained model on one side only.
    """
    saved = checkpoint.get("hyper_parameters") or {}
    if "config" not in saved or "policies" not in saved:
        return
    other = DecoderConfig(**saved["config"]) if saved["config"] else None
    theirs, ours = _describe(other, saved.get("pretrained")), _describe(config, pretrained)
    if other is not None and config is not None:
        differing = [
            name for name in (*_SHAPE, "tie_embeddings", "qkv_bias") if _value(other, name) != _value(config, name)
        ]
        if not differing:
            return
        theirs += "".join(f", {name} {_value(other, name)}" for name in differing if name not in _SHAPE[:3])
        ours += "".join(f", {name} {_value(config, name)}" for name in differing if name not in _SHAPE[:3])
    elif (other is None) == (config is None):
        return
    raise ValueError(f"the checkpoint holds {theirs}, the config asks for {ours}; use the checkpoint's config")


def _value(config: DecoderConfig, name: str) -> Any:
    return config.size if name == "head_dim" else getattr(config, name)


def _describe(config: DecoderConfig | None, pretrained: str | None) -> str:
    """``a decoder 2x32, vocabulary 98``, layers by hidden size."""
    if config is None:
        return f"the pretrained model {pretrained!r}"
    return f"a decoder {config.n_layers}x{config.hidden_size}, vocabulary {config.vocab_size}"
