"""Which device serves which batch rows of which KV head (after FairKV, arXiv 2502.15804)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORMAT = "septet.headplan/1"


class Replica(NamedTuple):
    """One copy of a head: ``device`` serves the batch rows ``[start, stop)``."""

    device: int
    start: int
    stop: int


Layer = tuple[tuple[Replica, ...], ...]


@dataclass(frozen=True)
class HeadPlan:
    """A placement of every KV head of every layer; validated on construction.

    Attributes:
        n_devices: number of devices G.
        batch_size: rows B that the ranges of each head partition.
        layers: per layer and head the replicas.
        meta: free information (profile, solver, utilisation ...).

    Raises:
        ValueError: naming layer and head, if a device is out of range or named twice in one head, ranges do not
            partition ``[0, batch_size)``, or layers differ in their number of heads.
    """

    n_devices: int
    batch_size: int
    layers: tuple[Layer, ...]
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_counts(self.n_devices, self.batch_size)
        if not self.layers:
            raise ValueError("a plan needs at least one layer")
        frozen = tuple(tuple(tuple(_replica(r) for r in head) for head in layer) for layer in self.layers)
        object.__setattr__(self, "layers", frozen)
        for place, layer in enumerate(frozen):
            if len(layer) != len(frozen[0]) or not layer:
                raise ValueError(f"layer {place} has {len(layer)} heads, layer 0 has {len(frozen[0])}")
            for number, head in enumerate(layer):
                self._check_head(head, f"layer {place}, head {number}")

    def _check_head(self, head: Sequence[Replica], where: str) -> None:
        devices = [r.device for r in head]
        wrong = [d for d in devices if not 0 <= d < self.n_devices]
        if wrong:
            raise ValueError(f"{where}: device {wrong[0]} of a plan for {self.n_devices} devices")
        if len(set(devices)) != len(devices):
            raise ValueError(f"{where}: a device is named twice in {devices}")
        at = 0
        for start, stop in sorted((r.start, r.stop) for r in head):
            if start != at or stop <= start:
                raise ValueError(f"{where}: rows {[tuple(r) for r in head]} do not partition [0, {self.batch_size})")
            at = stop
        if at != self.batch_size:
            raise ValueError(f"{where}: rows {[tuple(r) for r in head]} do not partition [0, {self.batch_size})")

    @property
    def n_layers(self) -> int:
        """Number of layers L."""
        return len(self.layers)

    @property
    def n_kv_heads(self) -> int:
        """Number of KV heads H of each layer."""
        return len(self.layers[0])

    @property
    def copies(self) -> list[int]:
        """Extra replicas per layer."""
        return [sum(len(head) - 1 for head in layer) for layer in self.layers]

    def loads(self, head_loads: Any, weight_cost: float = 0.0) -> Tensor:
        """Load of each device: sum over its replicas of ``w * rows / B + c``.

        Args:
            head_loads: ``(L, H)`` loads w of the whole batch.
            weight_cost: c, paid per replica, in the same unit.

        Returns:
            ``(L, G)`` float64.
        """
        weights = as_loads(head_loads, rank=2)
        if tuple(weights.shape) != (self.n_layers, self.n_kv_heads):
            raise ValueError(f"loads {tuple(weights.shape)} do not fit a plan of {(self.n_layers, self.n_kv_heads)}")
        out = torch.zeros(self.n_layers, self.n_devices, dtype=torch.float64)
        for place, layer in enumerate(self.layers):
            for number, head in enumerate(layer):
                for device, start, stop in head:
                    out[place, device] += weights[place, number] * (stop - start) / self.batch_size + weight_cost
        return out

    def makespans(self, head_loads: Any, weight_cost: float = 0.0) -> Tensor:
        """Load of the fullest device of each layer ``(L,)``: what every layer waits for."""
        return self.loads(head_loads, weight_cost).amax(dim=1)

    def utilisation(self, head_loads: Any, weight_cost: float = 0.0) -> float:
        """Mean load of a perfect split over the sum of makespans; weights of copies count as waste."""
        weights = as_loads(head_loads, rank=2)
        ideal = float((weights + weight_cost).sum()) / self.n_devices
        total = float(self.makespans(weights, weight_cost).sum())
        return ideal / total if total > 0 else 1.0

    def to_json(self, path: str | Path | None = None) -> str:
        """The plan file's text; also written to ``path`` if one is given."""
        document = {
            "format": FORMAT,
            "n_devices": self.n_devices,
            "batch_size": self.batch_size,
            "n_layers": self.n_layers,
            "n_kv_heads": self.n_kv_heads,
            "layers": [[[list(r) for r in head] for head in layer] for layer in self.layers],
            "meta": dict(self.meta),
        }
        text = json.dumps(document)
        if path is not None:
            Path(path).write_text(text + "\n")
        return text

    @classmethod
    def from_json(cls, path_or_text: str | Path) -> HeadPlan:
        """Read a plan file or its text.

        Raises:
            ValueError: for another format or a plan that does not hold together.
        """
        text = str(path_or_text)
        if text.lstrip().startswith("{"):
            return _parse(text)
        try:
            return _parse(Path(text).read_text())
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ValueError(f"no plan file {text!r}") from error
        except (ValueError, OSError) as error:
            raise ValueError(f"plan file {text}: {error}") from error


def _parse(text: str) -> HeadPlan:
    """A plan from its text; every fault is a ValueError."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"a plan file must be JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"plan format {found!r}, expected {FORMAT!r}")
    missing = [key for key in ("n_devices", "batch_size", "layers") if key not in document]
    if missing:
        raise ValueError(f"the plan file lacks {', '.join(missing)}; write it with HeadPlan.to_json")
    meta = document.get("meta", {})
    if not isinstance(meta, dict):
        raise ValueError(f"meta must be a mapping, got {meta!r}")
    try:
        layers = tuple(tuple(tuple(_replica(r) for r in head) for head in layer) for layer in document["layers"])
    except TypeError as error:
        raise ValueError(f"the plan file is damaged ({error}); write it with HeadPlan.to_json") from error
    plan = HeadPlan(document["n_devices"], document["batch_size"], layers, meta)
    for key, value in (("n_layers", plan.n_layers), ("n_kv_heads", plan.n_kv_heads)):
        if document.get(key, value) != value:
            raise ValueError(f"plan says {key} = {document[key]} but holds {value}")
    return plan


def _replica(values: Any) -> Replica:
    """``[device, start, stop]`` as whole numbers; a fraction is refused, not cut."""
    try:
        device, start, stop = map(index, values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{values!r} is no [device, start, stop] of whole numbers") from error
    return Replica(device, start, stop)


def contiguous_plan(n_layers: int, n_kv_heads: int, n_devices: int, batch_size: int = 1) -> HeadPlan:
    """Plain tensor parallelism: device d holds the d-th block of heads.

    Raises:
        ValueError: if the heads do not divide evenly.
    """
    _check_counts(n_devices, batch_size)
    if n_kv_heads % n_devices:
        raise ValueError(f"{n_kv_heads} KV heads do not divide over {n_devices} devices; use solve(..., copies=k)")
    block = n_kv_heads // n_devices
    layer = tuple((Replica(h // block, 0, batch_size),) for h in range(n_kv_heads))
    return HeadPlan(n_devices, batch_size, (layer,) * n_layers, {"solver": "contiguous"})


def as_loads(loads: Any, rank: int) -> Tensor:
    """Loads as float64 of the given rank.

    Raises:
        ValueError: if they are empty, negative, not finite or of another rank.
    """
    tensor = torch.as_tensor(loads, dtype=torch.float64)
    if tensor.ndim != rank or tensor.numel() == 0:
        raise ValueError(f"loads must have {rank} dimension(s) and not be empty, got shape {tuple(tensor.shape)}")
    wrong = ~torch.isfinite(tensor) | (tensor < 0)
    if wrong.any():
        place = torch.nonzero(wrong)[0].tolist()
        raise ValueError(f"load {float(tensor[tuple(place)])} at {place}: loads must be finite and not negative")
    return tensor


def _check_counts(n_devices: int, batch_size: int) -> None:
    for name, count in (("n_devices", n_devices), ("batch_size", batch_size)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is {count!r}; it must be a whole number, at least 1")
