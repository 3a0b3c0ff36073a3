"""Seconds and bytes of one decode step under a plan: a model of memory traffic and all-reduces, no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from septet.kernels.placement.plan import HeadPlan, as_loads


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only transformer with grouped-query attention."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int = 0
    element_bytes: int = 2

    @property
    def head_weight_bytes(self) -> int:
        """c: weights of one KV head group, its g query heads with K, V and O slices: (2g + 2) * D * hidden * e."""
        group = self.n_heads // self.n_kv_heads
        return (2 * group + 2) * self.head_dim * self.hidden_size * self.element_bytes


@dataclass(frozen=True)
class DeviceModel:
    """A GPU and its links: bytes per second, seconds per hop."""

    bandwidth: float
    link_bandwidth: float = 1e30
    link_latency: float = 0.0


@dataclass(frozen=True)
class Simulation:
    """One decode step of the whole batch."""

    step_seconds: float
    attention_seconds: float
    mlp_seconds: float
    comm_seconds: float
    utilisation: float
    tokens_per_second: float
    device_bytes: Tensor


def simulate(plan: HeadPlan, head_tokens: Any, shape: ModelShape, device: DeviceModel) -> Simulation:
    """Predict a decode step.

    Args:
        plan: the placement; its batch size is the step's.
        head_tokens: ``(L, H)`` kept tokens per sequence.
        shape: of the model.
        device: bandwidths.

    Raises:
        ValueError: if tokens, shape and plan do not fit.
    """
    tokens = as_loads(head_tokens, rank=2)
    if (shape.n_layers, shape.n_kv_heads) != (plan.n_layers, plan.n_kv_heads):
        raise ValueError(
            f"shape has {shape.n_layers} layers x {shape.n_kv_heads} KV heads, "
            f"the plan {plan.n_layers} x {plan.n_kv_heads}"
        )
    count, batch, size = plan.n_devices, plan.batch_size, shape.element_bytes
    kv_bytes = batch * tokens * 2 * shape.head_dim * size
    loads = plan.loads(kv_bytes, shape.head_weight_bytes)
    attention = float(loads.amax(dim=1).sum()) / device.bandwidth
    mlp_bytes = shape.n_layers * 3 * shape.hidden_size * shape.intermediate_size * size / count
    head_bytes = shape.vocab_size * shape.hidden_size * size
    mlp = (mlp_bytes + head_bytes) / device.bandwidth
    reduce = 0.0
    if count > 1:
        volume = 2 * (count - 1) / count * batch * shape.hidden_size * size
        reduce = 2 * (count - 1) * device.link_latency + volume / device.link_bandwidth
    comm = 2 * shape.n_layers * reduce
    step = attention + mlp + comm
    return Simulation(
        step_seconds=step,
        attention_seconds=attention,
        mlp_seconds=mlp,
        comm_seconds=comm,
        utilisation=plan.utilisation(kv_bytes, shape.head_weight_bytes),
        tokens_per_second=batch / step,
        device_bytes=loads.sum(dim=0) + mlp_bytes + 2 * head_bytes,
    )
