"""Bridge to transformers 5.x: ``model.generate(..., past_key_values=compressed_cache(model, policy))``.

A transformers cache sees keys and values but no queries, and one mask is built for all layers; an evicting cache needs
the opposite. So the cache hands the new keys through, tagged with itself, and an attention function registered as
"septet" does attention, scoring, storage and eviction in one place. The cache reports its logical length, so positions
stay true; padding is stripped before anything is stored.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor

from septet.kernels.attention import prefill_attention
from septet.kernels.cache.compressed import CompressedCache
from septet.kernels.policies.base import Policy, as_policies

NAME = "septet"
FAMILIES = ("llama", "mistral", "qwen2")
_TAG = "_septet_cache"


def compressed_cache(model: Any, policy: Policy | Sequence[Policy]) -> Any:
    """A cache for one ``generate`` call of a transformers model.

    Registers the attention function once and switches the model to it (``model.set_attn_implementation("sdpa")``
    switches back).

    Args:
        model: a causal language model of the Llama, Mistral or Qwen2 family.
        policy: for all sequences, or one per sequence.

    Returns:
        A ``transformers.Cache`` with ``lengths(layer)``, ``positions(layer, batch, head)``, ``memory_bytes()``,
        ``peak_bytes`` and ``seen_tokens`` of the ``CompressedCache`` in its attribute ``compressed``.

    Raises:
        ValueError: another family, sliding-window layers, a config without grouped-query sizes, or a policy with a
            head table of another model. Later, from ``generate``: a cache that is used a second time, beams (at the
            first reordering), assisted or prompt-lookup decoding (at the first crop).
        TypeError: something that is no policy; ``build_policy`` makes one from a name.
        ImportError: without transformers.
    """
    check_model(model.config)
    for each in as_policies(policy):
        each.check_model(model.config.num_hidden_layers, model.config.num_key_value_heads)
    _register()
    model.set_attn_implementation(NAME)
    return _cache_class()(model.config, policy)


def check_model(config: Any) -> None:
    """Raise ValueError if a compressed cache cannot serve a model of this config."""
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise ValueError(f"model type {family!r} is not supported; use one of {', '.join(FAMILIES)}")
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        if getattr(config, name, None) is None:
            raise ValueError(f"the model's config lacks {name}; a compressed cache needs grouped-query attention sizes")
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        if "sliding_attention" in kinds:
            raise ValueError(
                f"the model has sliding-window layers (sliding_window = {window}), which evict by themselves; "
                "use a model without them, or set sliding_window=None"
            )


@lru_cache(maxsize=1)
def _register() -> None:
    """Make "septet" known as attention function and as mask function (the mask stays two-dimensional)."""
    transformers = _transformers()
    transformers.AttentionInterface.register(NAME, attention_forward)
    from transformers.masking_utils import AttentionMaskInterface

    AttentionMaskInterface.register(NAME, _keep_padding_mask)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("cake needs the kv extra: pip install 'septet[kv]'") from error
    return transformers


def _keep_padding_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """Pass the ``(B, columns)`` padding mask on; the attention function needs no causal mask."""
    return attention_mask


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function of transformers: query ``(B, H_q, T, D)``; returns ``(B, T, H_q, D)``.

    Raises:
        ValueError: attention dropout, or padding on the right.
    """
    if dropout:
        raise ValueError(f"attention dropout {dropout} is not supported; call model.eval()")
    cache = getattr(key, _TAG, None)
    if cache is None:
        pads = left_pads(attention_mask, query.shape[2])
        out = prefill_attention(query, key, value, pads=pads, scale=scaling)
    else:
        out = cache.attend(module.layer_idx, query, key, value, attention_mask, scaling)
    return out.transpose(1, 2).contiguous(), None


def left_pads(attention_mask: Tensor | None, length: int) -> list[int] | None:
    """Left padding of each row from a ``(B, length)`` mask, None without any.

    Raises:
        ValueError: padding on the right or inside, a row of padding only, or a mask of another shape.
    """
    if attention_mask is None or attention_mask.ndim != 2:
        return None
    mask = attention_mask.bool()
    if mask.shape[1] != length:
        raise ValueError(
            f"the prompt's mask has {mask.shape[1]} columns for {length} tokens; start from an empty cache"
        )
    if not bool(mask[:, -1].all()) or bool((mask[:, 1:] < mask[:, :-1]).any()):
        inside = bool(((mask.cumsum(1) > 0) & (mask.flip(1).cumsum(1).flip(1) > 0) & ~mask).any())
        if inside:
            raise ValueError("the mask hides tokens inside a prompt; only padding on the left can be masked")
        raise ValueError("padding must be on the left; set tokenizer.padding_side = 'left'")
    pads: list[int] = (length - mask.sum(1)).tolist()
    return pads if any(pads) else None


@lru_cache(maxsize=1)
def _cache_class() -> Any:
    """The subclass of ``transformers.Cache``, made when transformers is first needed."""
    transformers = _transformers()

    class CompressedHFCache(transformers.Cache):  # type: ignore[misc, name-defined]
        """A transformers cache over a ``CompressedCache``."""

        def __init__(self, config: Any, policy: Policy | Sequence[Policy]) -> None:
            super().__init__(layers=[])
            self.config, self.policy = config, policy
            self.compressed: CompressedCache | None = None
            self._generating = False
            self._columns = [0] * config.num_hidden_layers

        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            """Tag the new keys with this cache; the attention function stores them."""
            if self.compressed is None:
                self.compressed = CompressedCache(
                    self.policy, self.config.num_hidden_layers, self.config.num_key_value_heads, key_states.shape[0]
                )
            setattr(key_states, _TAG, self)
            return key_states, value_states

        def attend(
            self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None
        ) -> Tensor:
            """Attention, storage and eviction of one layer."""
            assert self.compressed is not None
            fresh = not self.compressed.is_prefilled(layer)
            pads = left_pads(mask, query.shape[2]) if fresh else None
            if self._generating and query.shape[2] > 1:
                raise ValueError(
                    f"{query.shape[2]} tokens for a cache that has served a generate call; it serves one: "
                    "make a new one with compressed_cache(model, policy), or call reset()"
                )
            self._generating |= not fresh and query.shape[2] == 1 and layer == len(self) - 1
            self._columns[layer] += query.shape[2]
            return self.compressed.attention(layer, query, key, value, pads=pads, scale=scale)

        def get_seq_length(self, layer_idx: int = 0, *args: Any, **kwargs: Any) -> int:
            """Logical length in columns, padding and evicted tokens included."""
            return self._columns[layer_idx]

        def get_query_offset(self, layer_idx: int = 0, *args: Any, **kwargs: Any) -> int:
            """Column of the next token."""
            return self._columns[layer_idx]

        def physical_length(self, layer_idx: int = 0) -> int:
            """Longest stored segment of a layer."""
            if self.compressed is None or not self.compressed.is_prefilled(layer_idx):
                return 0
            return self.compressed.layer(layer_idx).max_length()

        def get_mask_sizes(self, query_length: Any, layer_idx: int = 0, *args: Any, **kwargs: Any) -> tuple[int, int]:
            """Physical length with the new rows, and the logical offset of the first slot."""
            count = query_length if isinstance(query_length, int) else len(query_length)
            physical = self.physical_length(layer_idx)
            return physical + count, self._columns[layer_idx] - physical

        def get_max_cache_shape(self, *args: Any, **kwargs: Any) -> int:
            """No limit."""
            return -1

        def reset(self) -> None:
            """Forget everything; the next call is a prompt again."""
            self.compressed, self._generating = None, False
            self._columns = [0] * self.config.num_hidden_layers

        def reorder_cache(self, beam_idx: Tensor) -> None:
            """Beams are not supported."""
            raise ValueError("a compressed cache cannot be reordered; use num_beams=1")

        def crop(self, max_length: int) -> None:
            """Evicted tokens cannot come back."""
            raise ValueError("a compressed cache cannot be cropped; use plain (not assisted) decoding")

        @property
        def is_initialized(self) -> bool:
            """Whether a prompt has been read."""
            return self.compressed is not None

        @property
        def is_sliding(self) -> list[bool]:
            """No layer slides."""
            return [False] * self.config.num_hidden_layers

        def __len__(self) -> int:
            return int(self.config.num_hidden_layers)

        def __getattr__(self, name: str) -> Any:
            compressed = self.__dict__.get("compressed")
            if compressed is not None and name in ("lengths", "positions", "memory_bytes", "peak_bytes", "seen_tokens"):
                return getattr(compressed, name)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} (or no prompt was read yet)")

    return CompressedHFCache
