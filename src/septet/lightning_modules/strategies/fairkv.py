"""FairKV as a Lightning strategy: heads and their KV caches placed on devices by load (after arXiv 2502.15804)."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from typing_extensions import override

from septet.kernels.placement import HeadPlan, contiguous_plan, read_profile, solve
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.strategies.head_parallel import ProcessShard, parallelise
from septet.lightning_modules.strategies.loading import LoadReport, load_cut, whole_weights_reason
from septet.lightning_modules.strategies.pictures import plan_drawing, plan_figure
from septet.lightning_modules.strategies.placement_record import placement_record, save_placement, save_sweeps
from septet.lightning_modules.strategies.profiling import check_profile, drift, profile_heads, weight_cost_in_tokens
from septet.lightning_modules.task import Task

__all__ = ["FairKVStrategy", "check_profile", "drift", "profile_heads", "weight_cost_in_tokens"]

log = logging.getLogger("lightning.pytorch")


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
        if not isinstance(copies, int) or copies < 0:
            raise ValueError(f"copies is {copies!r}; it must be a whole number, not negative")
        if cardinality not in ("free", "equal"):
            raise ValueError(f"cardinality {cardinality!r}: choose 'free' or 'equal'")
        if weight_cost != "auto" and not isinstance(weight_cost, int | float):
            raise ValueError(f"weight_cost {weight_cost!r}: give a number of tokens, or 'auto'")
        self.plan = HeadPlan.from_json(plan) if isinstance(plan, str | Path) else plan
        self.profile, self.copies, self.batch_size = profile, copies, batch_size
        self.cardinality, self.weight_cost = cardinality, weight_cost
        self.report: LoadReport | None = None
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
        """Refuse training, check that backend and device go together, then connect the processes."""
        if self.lightning_module is not None and self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            raise ValueError("strategy fairkv evaluates only (validate, test, predict); train with strategy: ddp")
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
        """Cut the model once, after its weights are there (a sliced one is cut already)."""
        assert self.lightning_module is not None
        model = getattr(self.lightning_module, "model", None)
        if not isinstance(model, CausalLM):
            raise ValueError(f"strategy fairkv cuts a CausalLM in `module.model`, found {type(model).__name__}")
        if not self._cut:
            self._settle_plan(model.config)
            assert self.plan is not None
            model.to(self.root_device)
            parallelise(model, self.plan, self._group)
            self._cut = True
        super().setup(trainer)
        model.reset_rope()  # a conversion to bf16 must not touch the rotary frequencies
        rank_zero_info(self._summary())
        self._draw(model.config)

    @contextmanager
    @override
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Just before ``configure_model``: weights of a Hugging Face folder are read in slices where they can be.

        Other formats (GGUF) are loaded whole by ``configure_model`` in every process and cut in :meth:`setup`.
        """
        module = self.lightning_module
        name = getattr(module, "pretrained", None)
        if isinstance(name, str) and getattr(module, "model", None) is None and not self._cut:
            reason = whole_weights_reason(name)
            if reason is None:
                dtype = getattr(self.precision_plugin, "_desired_input_dtype", torch.float32)
                model, self.report = load_cut(name, self._settle_plan, self._group, self.root_device, dtype)
                module.model = model  # type: ignore[union-attr]
                self._cut = True
                log.info(self.report.line(self.global_rank))
            else:
                rank_zero_info(f"fairkv: {reason}")
        with super().model_sharded_context():
            yield

    @override
    def on_validation_end(self) -> None:
        """Say what the caches really held."""
        self._report_met()

    @override
    def on_test_end(self) -> None:
        """Say what the caches really held, and draw the pictures of whole profiles."""
        self._report_met()
        if isinstance(self.lightning_module, Task) and self.global_rank == 0:
            save_sweeps(self.lightning_module)

    @override
    def on_predict_end(self) -> None:
        """Say what the caches really held."""
        self._report_met()

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """An ordinary checkpoint file; its whole weights go into the whole model."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    @override
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """As any strategy does; a model that is cut already takes its slices."""
        if not self._cut:
            Strategy.load_model_state_dict(self, checkpoint, strict)
            return
        state = checkpoint["state_dict"]
        renamed = {name.removeprefix("model.") if "lm_head" in name else name: value for name, value in state.items()}
        self.lightning_module.model.load_hf_state_dict(renamed)  # type: ignore[union-attr,operator]

    # -- plan -------------------------------------------------------------------------------------------------------

    @property
    def _group(self) -> Any:
        """The processes that share one model."""
        return self.device_mesh["tensor_parallel"].get_group()

    def _settle_plan(self, config: DecoderConfig) -> HeadPlan:
        """The plan, made once."""
        self.plan = self._make_plan(config)
        return self.plan

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
            module.save_picture("load_per_device", plan_figure(self.plan, *self._loads(config)))
            module.save_picture("head_plan", plan_drawing(self.plan))
            module.save_media("head_plan.json", self.plan.to_json())

    def _report_met(self) -> None:
        """Kept tokens and KV bytes per process against the plan, by policy; a plan that drifted is warned about."""
        module = self.lightning_module
        model: CausalLM = module.model  # type: ignore[union-attr,assignment]
        if self.plan is None or not isinstance(model.shard, ProcessShard) or not model.shard.met:
            return
        loads, cost = self._loads(model.config)
        planned = None if self.profile is None else loads / self.batch_size
        record = placement_record(self.plan, model.shard, planned, cost, self.report)
        for label, row in record["policies"].items():
            used = f"utilisation {row['utilisation_met']:.3f} on the loads of {label}"
            rank_zero_info(f"fairkv: {used}, planned {record['utilisation_planned']}")
            if row["drifted"]:
                rank_zero_warn(f"{used} is below 90 % of the planned one; profile anew and solve again")
        if isinstance(module, Task) and self.global_rank == 0:
            save_placement(module, record)

    def _summary(self) -> str:
        assert self.plan is not None
        copies = self.plan.copies
        used = self.plan.meta.get("utilisation")
        planned = f", planned utilisation {used:.3f}" if isinstance(used, float) else ""
        return f"fairkv: {self.plan.n_devices} devices, {sum(copies)} copied heads over {len(copies)} layers{planned}"


if FairKVStrategy.strategy_name not in StrategyRegistry:
    StrategyRegistry.register(
        FairKVStrategy.strategy_name, FairKVStrategy, description="attention heads placed by KV load (evaluation only)"
    )
