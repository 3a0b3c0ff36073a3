"""A decoder cut by attention heads over processes, as a :class:`HeadPlan` says (after FairKV, arXiv 2502.15804).

Each rank keeps the q/k/v rows and o columns of its heads and an even slice of every MLP. One all-reduce after the
output projection and one after the MLP add the parts up; a copied head fills only its own batch rows, so copies need
no further communication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from septet.kernels.cache import CompressedCache, Shard
from septet.kernels.placement import HeadPlan
from septet.kernels.policies.base import Policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies.checkpoints import SlicedCheckpoint
from septet.lightning_modules.strategies.placed_cache import Met, PlacedCache


class ProcessShard(Shard):
    """The heads and rows of this rank; statistics and scores are completed over the group.

    Args:
        heads: per layer the global indices of the local KV heads.
        n_kv_heads: KV heads of the whole model.
        rows: per layer and local head the batch rows ``[start, stop)``.
        group: process group, None for the default one.
        device: where collectives take place.
        batch_size: rows that every batch must have.
    """

    def __init__(
        self,
        heads: Sequence[Sequence[int]],
        n_kv_heads: int,
        rows: Sequence[Sequence[tuple[int, int]]],
        group: Any,
        device: torch.device,
        batch_size: int,
    ) -> None:
        super().__init__(heads, n_kv_heads, rows)
        self.group, self.device, self.batch_size = group, device, batch_size
        self.met: dict[str, Met] = {}
        """By policy label, what the caches of this process kept after their prompts."""

    def complete(self, met: Met) -> Tensor:
        """Mean kept tokens per sequence ``(L, H_kv)`` over all rows and processes; every process calls it."""
        whole = met.tokens.clone().to(self.device)
        dist.all_reduce(whole, group=self.group)
        return whole.cpu() / max(1, met.batches * self.batch_size)

    def per_device(self, value: float) -> list[float]:
        """This number of every rank, in rank order."""
        numbers = torch.zeros(dist.get_world_size(self.group), dtype=torch.float64, device=self.device)
        numbers[dist.get_rank(self.group)] = value
        dist.all_reduce(numbers, group=self.group)
        return [float(n) for n in numbers]

    def is_whole(self) -> bool:
        """Never: other ranks hold the rest, even where this one holds every head of a layer."""
        return False

    def total(self, statistics: Tensor) -> Tensor:
        """Sum ``(B, 2)`` over ranks; each head is counted once, by the replica that serves the row."""
        moved = statistics.to(self.device)
        dist.all_reduce(moved, group=self.group)
        return moved.to(statistics.device)

    def gather(self, scores: Sequence[Tensor | None], layer: int) -> Sequence[Tensor | None]:
        """Complete each row's ``(h_local, N)`` to ``(H_kv, N)``."""
        out: list[Tensor | None] = []
        for row, score in enumerate(scores):
            if score is None:
                out.append(None)
                continue
            whole = score.new_zeros(self.n_kv_heads, score.shape[1])
            mine = [self.heads[layer][h] for h in self.local(layer, row)]
            if mine:
                whole[mine] = score
            dist.all_reduce(whole, group=self.group)
            out.append(whole)
        return out


def parallelise(model: CausalLM, plan: HeadPlan, group: Any = None) -> CausalLM:
    """Cut the model in place to this rank's part.

    Afterwards ``model.new_cache(policy, batch_size)`` and ``model(ids, cache=cache)`` give, on every rank, the logits
    of the single process. A model on the meta device is cut first; ``load_hf_state_dict`` then copies only this
    rank's slices.

    Args:
        model: whole decoder.
        plan: placement; its devices are the ranks of the group.
        group: process group, None for the default one.

    Raises:
        RuntimeError: if there is no process group.
        ValueError: if the plan is for another world size, layer or head count, or the model is cut already.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("no process group: call torch.distributed.init_process_group first, or use strategy fairkv")
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    config = model.config
    if plan.n_devices != world:
        raise ValueError(f"the plan is for {plan.n_devices} devices, the group has {world} processes; solve it anew")
    if (plan.n_layers, plan.n_kv_heads) != (config.n_layers, config.n_kv_heads):
        raise ValueError(
            f"the plan has {plan.n_layers} layers x {plan.n_kv_heads} KV heads, "
            f"the model {config.n_layers} x {config.n_kv_heads}; solve it for this model"
        )
    if model.shard is not None:
        raise ValueError("the model is cut already; build a fresh one")
    device = model.embed_tokens.weight.device
    heads, rows = local_part(plan, rank)
    cuts: dict[str, list[Tensor | None]] = {}
    for index in range(config.n_layers):
        layer = model.layers[index]
        cut = _indices(config, heads[index], world, rank)
        _cut_layer(layer, cut, partial(_sum, group=group))
        cuts |= {f"layers.{index}.{name}": value for name, value in cut.items()}
    collective = device if device.type != "meta" else torch.device("cpu")
    model.shard = ProcessShard(heads, config.n_kv_heads, rows, group, collective, plan.batch_size)
    model.new_cache = partial(_new_cache, model, plan)  # type: ignore[method-assign]
    model.load_hf_state_dict = partial(_load_slices, model, cuts)  # type: ignore[method-assign]
    return model


def local_part(plan: HeadPlan, rank: int) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Per layer the heads of a rank and the batch rows it serves for each."""
    heads: list[list[int]] = []
    rows: list[list[tuple[int, int]]] = []
    for layer in plan.layers:
        mine = [(h, r) for h, head in enumerate(layer) for r in head if r.device == rank]
        heads.append([h for h, _ in mine])
        rows.append([(r.start, r.stop) for _, r in mine])
    return heads, rows


def _sum(x: Tensor, group: Any) -> Tensor:
    dist.all_reduce(x, group=group)
    return x


def _indices(config: Any, heads: list[int], world: int, rank: int) -> dict[str, list[Tensor | None]]:
    """Rows and columns that this rank keeps of each projection: name to [rows, columns], None for all."""
    size, group = config.size, config.n_heads // config.n_kv_heads
    key = _blocks(heads, size)
    query = _blocks(heads, group * size)
    inner = torch.arange(config.intermediate_size).tensor_split(world)[rank]
    return {
        "self_attn.q_proj": [query, None],
        "self_attn.k_proj": [key, None],
        "self_attn.v_proj": [key, None],
        "self_attn.o_proj": [None, query],
        "mlp.gate_proj": [inner, None],
        "mlp.up_proj": [inner, None],
        "mlp.down_proj": [None, inner],
    }


def _blocks(heads: list[int], width: int) -> Tensor:
    """Indices of the blocks of given heads."""
    starts = torch.tensor(heads, dtype=torch.long)[:, None] * width
    return (starts + torch.arange(width)).flatten()


def _take(tensor: Tensor, rows: Tensor | None, columns: Tensor | None = None) -> Tensor:
    """Chosen rows and columns of a weight or bias."""
    if rows is not None:
        tensor = tensor.index_select(0, rows.to(tensor.device))
    if columns is not None and tensor.ndim == 2:
        tensor = tensor.index_select(1, columns.to(tensor.device))
    return tensor


def _cut_layer(layer: Any, cut: Mapping[str, list[Tensor | None]], reduce: Any) -> None:
    for name, (rows, columns) in cut.items():
        linear = layer.get_submodule(name)
        with torch.no_grad():
            linear.weight = nn.Parameter(_take(linear.weight, rows, columns).clone(), requires_grad=False)
            if linear.bias is not None:
                linear.bias = nn.Parameter(_take(linear.bias, rows).clone(), requires_grad=False)
        linear.out_features, linear.in_features = linear.weight.shape
    layer.self_attn.reduce = reduce
    layer.mlp.reduce = reduce


def _new_cache(
    model: CausalLM, plan: HeadPlan, policy: Policy | Sequence[Policy], batch_size: int = 1
) -> CompressedCache:
    """A cache for this rank's heads and rows.

    Raises:
        ValueError: for a batch other than the plan's.
    """
    if batch_size != plan.batch_size:
        raise ValueError(
            f"batch of {batch_size} under a plan for batch_size={plan.batch_size}; set the strategy's batch_size, "
            "and drop or pad the last, smaller batch"
        )
    config = model.config
    cache = PlacedCache(policy, config.n_layers, config.n_kv_heads, batch_size, shard=model.shard)
    cache.met = model.shard.met if isinstance(model.shard, ProcessShard) else None
    return cache


def _load_slices(model: CausalLM, cuts: Mapping[str, list[Tensor | None]], state: Mapping[str, Tensor]) -> None:
    """Copy this rank's slices of weights with Hugging Face names, one tensor at a time (lazy mappings stay lazy).

    Of a :class:`SlicedCheckpoint` only the slices are read.

    Raises:
        ValueError: if a tensor is missing or does not fit.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = name if name.startswith("lm_head") else f"model.{name}"
            if source not in state:
                raise ValueError(f"the checkpoint lacks {source}; is it a Llama, Mistral or Qwen2 model?")
            rows, columns = cuts.get(name.rsplit(".", 1)[0], [None, None])
            if isinstance(state, SlicedCheckpoint):
                _check_whole(source, state.shape(source), whole_shape(model.config, name))
                state.copy_slices(parameter, source, rows, columns)
                continue
            whole = state[source]
            _check_whole(source, tuple(whole.shape), whole_shape(model.config, name))
            parameter.copy_(_take(whole, rows, columns))


def whole_shape(config: DecoderConfig, name: str) -> tuple[int, ...]:
    """Shape of a parameter before it is cut."""
    heads, keys, hidden = config.n_heads * config.size, config.n_kv_heads * config.size, config.hidden_size
    outputs = {"q_proj": heads, "k_proj": keys, "v_proj": keys, "o_proj": hidden, "down_proj": hidden}
    inputs = {"o_proj": heads, "down_proj": config.intermediate_size}
    module, kind = name.split(".")[-2:]
    if module in ("embed_tokens", "lm_head"):
        return (config.vocab_size, hidden)
    if "norm" in module:
        return (hidden,)
    rows = outputs.get(module, config.intermediate_size)
    return (rows,) if kind == "bias" else (rows, inputs.get(module, hidden))


def _check_whole(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise ValueError(f"{name} has shape {shape}, the model expects {expected}")
