"""A decoder in Llama layout that reads and fills compressed KV caches (pure torch).

Grouped-query attention, half-rotation rotary embedding, SwiGLU, RMSNorm; Qwen2's biases and Llama 3.1's rotary scaling
included. Parameter names are those of Hugging Face checkpoints without the leading ``model.``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from septet.kernels.attention import prefill_attention
from septet.kernels.cache import CompressedCache, RecordedPrompt, Shard
from septet.kernels.policies.base import ALL_ROWS, Policy

Cache = CompressedCache | RecordedPrompt
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the model.

    Raises:
        ValueError: heads that do not divide, an odd head size, or sizes below one.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int | None = None
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    qkv_bias: bool = False
    rope_scaling: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the shape."""
        for name in ("vocab_size", "hidden_size", "intermediate_size", "n_layers", "n_heads", "n_kv_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{self.n_heads} query heads do not divide over {self.n_kv_heads} KV heads; use a multiple"
            )
        if self.head_dim is None and self.hidden_size % self.n_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not divide over {self.n_heads} heads; give head_dim")
        if self.size % 2:
            raise ValueError(f"head_dim = {self.size} must be even for the rotary embedding")

    @property
    def size(self) -> int:
        """Size of one head, ``D``."""
        return self.hidden_size // self.n_heads if self.head_dim is None else self.head_dim


class RMSNorm(nn.Module):
    """Root mean square norm in fp32 (fp64 for a model in fp64)."""

    def __init__(self, size: int, eps: float) -> None:
        """Scale one."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(..., size)`` to the same shape."""
        wide = x if x.dtype == torch.float64 else x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


def rope_frequencies(config: DecoderConfig) -> Tensor:
    """Inverse frequencies ``(D / 2,)`` float32, with Llama 3.1's scaling if the config asks for it.

    Raises:
        ValueError: for a scaling other than "default", "linear" or "llama3".
    """
    inverse = 1.0 / config.rope_theta ** (torch.arange(0, config.size, 2, dtype=torch.int64).float() / config.size)
    scaling = dict(config.rope_scaling or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return inverse
    if kind == "linear":
        return inverse / float(scaling["factor"])
    if kind != "llama3":
        raise ValueError(f"rope scaling {kind!r} is not supported; use default, linear or llama3")
    factor, original = float(scaling["factor"]), float(scaling["original_max_position_embeddings"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    wavelength = 2 * math.pi / inverse
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return inverse * (smooth + (1 - smooth) / factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, half rotation: x ``(B, H, T, D)``, cos and sin ``(B, 1, T, D)``."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class Attention(nn.Module):
    """Projections of one layer; the cache does the attention.

    The number of local heads follows from the projections' shapes, so that they can be cut by head; ``reduce`` is
    applied to the output projection's result (an all-reduce in tensor parallel runs).
    """

    def __init__(self, config: DecoderConfig) -> None:
        """Build the four projections."""
        super().__init__()
        size, bias = config.size, config.qkv_bias
        self.head_dim = size
        self.q_proj = nn.Linear(config.hidden_size, config.n_heads * size, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.n_kv_heads * size, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.n_kv_heads * size, bias=bias)
        self.o_proj = nn.Linear(config.n_heads * size, config.hidden_size, bias=False)
        self.reduce: Reduce | None = None

    def heads(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """Project and split: ``(B, T, hidden)`` to ``(B, H, T, D)``."""
        count = projection.weight.shape[0] // self.head_dim
        split: Tensor = projection(x).view(x.shape[0], x.shape[1], count, self.head_dim).transpose(1, 2)
        return split

    def output(self, attended: Tensor) -> Tensor:
        """``(B, H_q, T, D)`` to ``(B, T, hidden)``."""
        out: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return out if self.reduce is None else self.reduce(out)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        """Build the three projections."""
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.reduce: Reduce | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, hidden)`` to the same shape."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out if self.reduce is None else self.reduce(out)


class DecoderLayer(nn.Module):
    """One block."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        """Build attention, MLP and norms."""
        super().__init__()
        self.index = index
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], cache: Cache | None, pads: Sequence[int] | None, chunk: int
    ) -> Tensor:
        """``(B, T, hidden)`` to the same shape; the prompt is processed ``chunk`` rows at a time."""
        normed = self.input_layernorm(x)
        key = rotate(self.self_attn.heads(normed, self.self_attn.k_proj), *rope)
        value = self.self_attn.heads(normed, self.self_attn.v_proj)
        if cache is not None and cache.is_prefilled(self.index):
            query = rotate(self.self_attn.heads(normed, self.self_attn.q_proj), *rope)
            return self._residual(x, cache.attention(self.index, query, key, value))
        return self._prompt(x, normed, key, value, rope, cache, pads, chunk)

    def _residual(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.self_attn.output(attended)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def _prompt(
        self,
        x: Tensor,
        normed: Tensor,
        key: Tensor,
        value: Tensor,
        rope: tuple[Tensor, Tensor],
        cache: Cache | None,
        pads: Sequence[int] | None,
        chunk: int,
    ) -> Tensor:
        """Exact attention over the whole prompt, rows in chunks; the last rows then go to the cache for scoring."""
        length, cos, sin = x.shape[1], *rope
        rows = 0 if cache is None else cache.rows_needed([length - pad for pad in pads or [0] * x.shape[0]])
        first = 0 if rows == ALL_ROWS else length - rows
        parts, tails = [], []
        for start in range(0, length, chunk):
            stop = min(start + chunk, length)
            query = self.self_attn.heads(normed[:, start:stop], self.self_attn.q_proj)
            query = rotate(query, cos[..., start:stop, :], sin[..., start:stop, :])
            attended = query
            if query.shape[1]:
                attended = prefill_attention(query, key[:, :, :stop], value[:, :, :stop], pads=pads)
            if cache is not None:
                attended = cache.own(self.index, attended)
            parts.append(self._residual(x[:, start:stop], attended))
            if stop > first:
                tails.append(query[:, :, max(0, first - start) :])
        if cache is not None:
            tail = torch.cat(tails, 2) if tails else query[:, :, :0]
            cache.prefill(self.index, tail, key, value, pads=pads)
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


class CausalLM(nn.Module):
    """Decoder-only language model.

    Args:
        config: shape.
        prefill_chunk: rows of a prompt that a layer processes at a time.
    """

    def __init__(self, config: DecoderConfig, prefill_chunk: int = 2048) -> None:
        """Build and initialise (embedding N(0, 1), linear N(0, 1 / fan_in), residual outputs half of that.

        Head N(0, 0.02^2)).
        """
        super().__init__()
        self.config, self.prefill_chunk = config, prefill_chunk
        self.shard: Shard | None = None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.n_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.inverse_frequency: Tensor
        self.register_buffer("inverse_frequency", rope_frequencies(config), persistent=False)
        if self.embed_tokens.weight.device.type != "meta":
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's generator (this initialisation learns recall in minutes.

        0.02 everywhere does not).
        """
        nn.init.normal_(self.embed_tokens.weight)
        for name, module in self.layers.named_modules():
            if isinstance(module, nn.Linear):
                scale = 0.5 if name.endswith(("o_proj", "down_proj")) else 1.0
                nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def reset_rope(self) -> None:
        """Compute the rotary frequencies afresh."""
        self.inverse_frequency = rope_frequencies(self.config).to(self.embed_tokens.weight.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the weights; the rotary frequencies stay fp32.

        In bf16 (``precision: bf16-true``) they would be off by up to 0.4 %, which is many radians at far positions.
        """
        before = self.inverse_frequency
        super()._apply(fn, recurse)
        after = self.inverse_frequency
        if not after.is_meta and (before.is_meta or after.dtype != torch.float32):
            self.inverse_frequency = rope_frequencies(self.config).to(after.device)
        return self

    def load_hf_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy weights with Hugging Face names; reads only the names it needs, so a lazy mapping works.

        Raises:
            ValueError: a missing tensor or another shape, with its name.
        """
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                source = name if name.startswith("lm_head") else f"model.{name}"
                if source not in state:
                    raise ValueError(f"the checkpoint lacks {source}; is it a Llama, Mistral or Qwen2 model?")
                value = state[source]
                if value.shape != parameter.shape:
                    raise ValueError(
                        f"{source} has shape {tuple(value.shape)}, the model expects {tuple(parameter.shape)}"
                    )
                parameter.copy_(value)

    def new_cache(self, policy: Policy | Sequence[Policy], batch_size: int = 1) -> CompressedCache:
        """An empty cache for this model under a policy (one for all sequences, or one each)."""
        return CompressedCache(policy, self.config.n_layers, self.config.n_kv_heads, batch_size, shard=self.shard)

    def record_prompt(self, policies: Sequence[Policy]) -> RecordedPrompt:
        """An empty recorder: pass it as the cache of one prefill, then ``compress`` it under each policy."""
        return RecordedPrompt(policies, self.config.n_layers, self.config.n_kv_heads)

    def rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine ``(B, 1, T, D)`` at positions ``(B, T)``."""
        angle = positions[:, None, :, None].float() * self.inverse_frequency
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    def forward(
        self,
        input_ids: Tensor,
        *,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Logits of the given tokens.

        Args:
            input_ids: ``(B, T)``; the first call with a cache is its prompt, later calls append.
            cache: from ``new_cache`` or ``record_prompt``; None for a plain causal forward.
            attention_mask: ``(B, T)`` of the prompt, 0 on left padding; ignored once the cache holds the prompt.
            last_only: only the last position's logits.

        Returns:
            ``(B, T, V)``, or ``(B, 1, V)``; unspecified at pads.

        Raises:
            ValueError: right padding, a row of padding only, or a cache of another batch size.
        """
        batch, length = input_ids.shape
        if isinstance(cache, CompressedCache) and cache.batch_size != batch:
            raise ValueError(f"input of batch {batch} with a cache of batch {cache.batch_size}; make a new cache")
        pads = None
        if cache is not None and cache.is_prefilled(0):
            positions = cache.next_positions(length, input_ids.device)
        else:
            pads = left_padding(attention_mask, input_ids)
            shift = torch.tensor(pads or [0] * batch, device=input_ids.device)
            positions = (torch.arange(length, device=input_ids.device)[None] - shift[:, None]).clamp(min=0)
        x = self.embed_tokens(input_ids)
        rope = self.rope(positions, x.dtype)
        for layer in self.layers:
            x = layer(x, rope, cache, pads, self.prefill_chunk)
        logits: Tensor = self.lm_head(self.norm(x[:, -1:] if last_only else x))
        return logits


def left_padding(attention_mask: Tensor | None, input_ids: Tensor) -> list[int] | None:
    """Number of pads at the left of each row, None without padding.

    Raises:
        ValueError: a mask of another shape, padding on the right or inside, or a row of padding only.
    """
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask {tuple(attention_mask.shape)} does not fit input_ids {tuple(input_ids.shape)}"
        )
    mask = attention_mask.bool()
    counts = mask.sum(1)
    if not bool(mask[:, -1].all()) or bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise ValueError("padding must be on the left (zeros, then ones, at least one); set padding_side='left'")
    pads: list[int] = (mask.shape[1] - counts).tolist()
    return pads if any(pads) else None
