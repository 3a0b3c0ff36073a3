"""FairKV as a Lightning strategy: heads and their KV caches placed on devices by load (after arXiv 2502.15804)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from septet.kernels.placement import HeadPlan, contiguous_plan, read_profile, solve
from septet.kernels.policies.base import Policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies.head_parallel import parallelise
from septet.lightning_modules.strategies.pictures import plan_figure
from septet.lightning_modules.task import Task


class FairKVStrategy(ModelParallelStrategy):
    """Cuts ``lightning_module.model`` by attention heads before the first batch; evaluation only.

    Args:
        plan: a :class:`HeadPlan` or the path of its JSON; None: solve one.
        profile: kept tokens per sequence ``(L, H_kv)``, as :func:`profile_heads` gives, or the path of an .npz or
            .tsv; None (without a plan): contiguous blocks, plain tensor parallelism.
        copies: most extra replicas per layer.
        batch_size: rows of a batch; every batch must have exactly so many.
        cardinality: "free" or "equal" (heads per device, without copies).
        weight_cost: weight bytes of a head in tokens of KV, or "auto": from the model's shape.
        **kwargs: of ``ModelParallelStrategy``, for example ``process_group_backend="gloo"``.
    """

    strategy_name = "fairkv"

    def __init__(
        self,
        plan: HeadPlan | str | None = None,
        profile: str | list[list[float]] | None = None,
        copies: int = 0,
        batch_size: int = 1,
        cardinality: str = "free",
        weight_cost: float | str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if weight_cost != "auto" and not isinstance(weight_cost, int | float):
            raise ValueError(f"weight_cost {weight_cost!r}: give a number of tokens, or 'auto'")
        self.plan = HeadPlan.from_json(plan) if isinstance(plan, str | Path) else plan
        self.profile, self.copies, self.batch_size = profile, copies, batch_size
        self.cardinality, self.weight_cost = cardinality, weight_cost
        self._cut = False

    # -- Lightning --------------------------------------------------------------------------------------------------

    @property
    @override
    def restore_checkpoint_after_setup(self) -> bool:
        """Whole weights are loaded first, then cut."""
        return False

    @property
    @override
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every tensor-parallel rank sees the same batches."""
        return {"num_replicas": 1, "rank": 0}

    @override
    def setup_environment(self) -> None:
        """Check that backend and device go together, then connect the processes."""
        backend, kind = self._process_group_backend, self.root_device.type
        if backend == "nccl" and kind == "cpu":
            raise ValueError(
                "process_group_backend 'nccl' needs GPUs; set strategy.init_args.process_group_backend: gloo"
            )
        if backend == "gloo" and kind == "cuda":
            raise ValueError("process_group_backend 'gloo' with CUDA tensors; set it to nccl or leave it out")
        super().setup_environment()

    @override
    def setup(self, trainer: Trainer) -> None:
        """Cut the model once, after its weights are there."""
        if trainer.state.fn == TrainerFn.FITTING:
            raise ValueError("strategy fairkv evaluates only (validate, test, predict); train with strategy: ddp")
        assert self.lightning_module is not None
        model = getattr(self.lightning_module, "model", None)
        if not isinstance(model, CausalLM):
            raise ValueError(f"strategy fairkv cuts a CausalLM in `module.model`, found {type(model).__name__}")
        if not self._cut:
            self.plan = self._make_plan(model.config)
            model.to(self.root_device)
            parallelise(model, self.plan, self.device_mesh["tensor_parallel"].get_group())
            self._cut = True
            rank_zero_info(self._summary())
            self._draw(model.config)
        super().setup(trainer)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """An ordinary checkpoint file; its whole weights go into the whole model."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """As any strategy does."""
        Strategy.load_model_state_dict(self, checkpoint, strict)

    # -- plan -------------------------------------------------------------------------------------------------------

    def _make_plan(self, config: DecoderConfig) -> HeadPlan:
        """The given plan, or one solved from the profile, or contiguous blocks.

        Raises:
            ValueError: if plan or profile do not fit the model or the number of processes.
        """
        if self.plan is not None:
            if self.plan.batch_size != self.batch_size:
                raise ValueError(
                    f"the plan is for batch_size={self.plan.batch_size}, the strategy says {self.batch_size}; "
                    "make them equal"
                )
            return self.plan
        devices = self.device_mesh["tensor_parallel"].size()
        if self.profile is None and config.n_kv_heads % devices == 0:
            return contiguous_plan(config.n_layers, config.n_kv_heads, devices, self.batch_size)
        loads, cost = self._loads(config)
        return solve(
            loads,
            devices,
            batch_size=self.batch_size,
            copies=self.copies,
            cardinality=self.cardinality,
            weight_cost=cost,
        )

    def _read_profile(self) -> Tensor:
        if isinstance(self.profile, str | Path):
            return read_profile(self.profile)
        return torch.as_tensor(self.profile, dtype=torch.float64)

    def _loads(self, config: DecoderConfig) -> tuple[Tensor, float]:
        """Loads of the whole batch in tokens of one KV head, and the weight cost in the same unit."""
        tokens = torch.ones(config.n_layers, config.n_kv_heads, dtype=torch.float64)
        if self.profile is not None:
            tokens = check_profile(self._read_profile(), config)
        cost = weight_cost_in_tokens(config) if self.weight_cost == "auto" else float(self.weight_cost)
        return self.batch_size * tokens, cost

    def _draw(self, config: DecoderConfig) -> None:
        """The plan's picture in the run directory, and the plan file beside it."""
        module = self.lightning_module
        assert self.plan is not None
        if isinstance(module, Task) and self.global_rank == 0:
            module.save_picture("head_plan", plan_figure(self.plan, *self._loads(config)))
            module.save_media("head_plan.json", self.plan.to_json())

    def _summary(self) -> str:
        assert self.plan is not None
        copies = self.plan.copies
        used = self.plan.meta.get("utilisation")
        planned = f", planned utilisation {used:.3f}" if isinstance(used, float) else ""
        return f"fairkv: {self.plan.n_devices} devices, {sum(copies)} copied heads over {len(copies)} layers{planned}"


def weight_cost_in_tokens(config: DecoderConfig) -> float:
    """C of section 2 in tokens of one KV head: ``(g + 1) * hidden`` (the element size cancels)."""
    return (config.n_heads // config.n_kv_heads + 1) * float(config.hidden_size)


def check_profile(profile: Tensor, config: DecoderConfig) -> Tensor:
    """A profile that fits the model.

    Raises:
        ValueError: naming both shapes; one of query heads is offered the group mean.
    """
    wanted = (config.n_layers, config.n_kv_heads)
    if tuple(profile.shape) == wanted:
        return profile.to(torch.float64)
    if tuple(profile.shape) == (config.n_layers, config.n_heads):
        raise ValueError(
            f"profile {tuple(profile.shape)} is per query head, the model has {wanted} KV heads; "
            "take the mean of each group: septet.kernels.placement.group_mean(profile, n_kv_heads)"
        )
    raise ValueError(f"profile {tuple(profile.shape)} does not fit a model of {wanted} (layers, KV heads)")


def profile_heads(module: LightningModule, batches: Iterable[Mapping[str, Any]], policy: Policy) -> Tensor:
    """Mean kept tokens per sequence of each layer and KV head under a policy.

    Args:
        module: with a whole ``CausalLM`` in ``model``.
        batches: with ``input_ids`` ``(B, T)`` and optionally ``attention_mask``.
        policy: whose budgets are met.

    Returns:
        ``(L, H_kv)`` float64.

    Raises:
        ValueError: if there are no batches.
    """
    module.configure_model()
    model = module.model
    assert isinstance(model, CausalLM)
    total = torch.zeros(model.config.n_layers, model.config.n_kv_heads, dtype=torch.float64)
    count = 0
    for batch in batches:
        ids = batch["input_ids"]
        cache = model.new_cache(policy, len(ids))
        with torch.no_grad():
            model(ids, cache=cache, attention_mask=batch.get("attention_mask"), last_only=True)
        for layer in range(model.config.n_layers):
            total[layer] += cache.lengths(layer).sum(dim=0).to(torch.float64).cpu()
        count += len(ids)
    if count == 0:
        raise ValueError("profile_heads got no batches; give about 50 prompts")
    return total / count


def drift(plan: HeadPlan, head_tokens: Tensor, weight_cost: float = 0.0) -> tuple[float, bool]:
    """Utilisation on the loads actually met, and whether it fell below 90 % of the planned one."""
    met = plan.utilisation(plan.batch_size * head_tokens, weight_cost)
    planned = plan.meta.get("utilisation")
    return met, isinstance(planned, float) and met < 0.9 * planned


if FairKVStrategy.strategy_name not in StrategyRegistry:
    StrategyRegistry.register(
        FairKVStrategy.strategy_name, FairKVStrategy, description="attention heads placed by KV load (evaluation only)"
    )
