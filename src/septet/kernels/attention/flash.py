"""FlashAttention over ragged caches: PyTorch's built-in kernel and the flash-attn package, one sequence per head."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from septet.kernels.attention.packed import pack

if TYPE_CHECKING:
    from septet.kernels.cache.ragged import RaggedLayer


def _varlen(query: Tensor, layer: "RaggedLayer") -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
    """Queries ``(B * H_kv, g, D)``, gathered keys and values ``(tokens, 1, D)``, cumulative lengths.

    Longest segment.
    """
    keys = torch.cat([layer.keys(b, h) for b in range(layer.batch_size) for h in range(layer.n_kv_heads)])
    values = torch.cat([layer.values(b, h) for b in range(layer.batch_size) for h in range(layer.n_kv_heads)])
    packed = pack(query, layer.n_kv_heads).flatten(0, 1)
    lengths = layer.lengths_tensor.flatten().to(torch.int32)
    zero = torch.zeros(1, dtype=torch.int32, device=query.device)
    ends = torch.cat([zero, lengths.cumsum(0).to(torch.int32)])
    starts = torch.arange(len(lengths) + 1, dtype=torch.int32, device=query.device)
    return packed, keys[:, None], values[:, None], starts, ends, layer.max_length()


def attend_flash(query: Tensor, layer: "RaggedLayer", scale: float | None = None) -> Tensor:
    """PyTorch's flash kernel with cumulative lengths, ``H_kv = 1`` and ``g`` query heads (CUDA, half precision).

    Raises:
        ValueError: on a CPU or in fp32.
    """
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"backend 'flash' needs CUDA and half precision, not {query.dtype} on {query.device}; use 'auto'"
        )
    packed, keys, values, starts, ends, longest = _varlen(query, layer)
    out = torch.ops.aten._flash_attention_forward(
        packed, keys, values, starts, ends, 1, longest, 0.0, False, False, scale=scale
    )
    result: Tensor = out[0]
    return result.view(query.shape)


def attend_flash_package(query: Tensor, layer: "RaggedLayer", scale: float | None = None) -> Tensor:
    """The same through the package flash-attn, if it is installed.

    Raises:
        ValueError: if the package is absent or the tensors are not CUDA half precision.
    """
    try:
        import flash_attn
    except ImportError as error:
        raise ValueError("backend 'flash_attn' needs the package flash-attn; use backend='auto'") from error
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"backend 'flash_attn' needs CUDA and half precision, not {query.dtype} on {query.device}")
    packed, keys, values, starts, ends, longest = _varlen(query, layer)
    run: Any = flash_attn.flash_attn_varlen_func
    out: Tensor = run(packed, keys, values, starts, ends, 1, longest, softmax_scale=scale)
    return out.view(query.shape)
