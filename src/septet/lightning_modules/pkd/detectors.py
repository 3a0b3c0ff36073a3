"""mmdet detectors by configuration name, file or dictionary."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from septet.kernels.detection import import_mmdet

_PROBE = 256
"""Side in pixels of the blank image on which strides and channels are read."""


@dataclass(frozen=True)
class Geometry:
    """What a detector's tapped levels look like.

    Attributes:
        strides: pixels per cell of each level.
        channels: of each level.
        divisor: ``pad_size_divisor`` of the preprocessor.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    divisor: int


def _config_folder() -> Path:
    import_mmdet()
    import mmdet

    return Path(mmdet.__file__).parent / ".mim" / "configs"


def _named(name: str) -> Path:
    """The configuration file shipped inside the installed mmdet."""
    folder = _config_folder()
    path = folder / f"{name.removeprefix('mmdet::').removesuffix('.py')}.py"
    if path.is_file():
        return path
    known = [str(p.relative_to(folder).with_suffix("")) for p in folder.glob("*/*.py")]
    near = difflib.get_close_matches(name.removeprefix("mmdet::").removesuffix(".py"), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"no detector configuration {name!r}: neither a file nor an mmdet name{hint}")


def _read(source: str) -> Any:
    """Configuration of a name or file, as mmengine reads it."""
    path = Path(source) if source.endswith(".py") and Path(source).is_file() else _named(source)
    import_mmdet()
    from mmengine.config import Config

    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a configuration is code: it may raise anything
        raise ValueError(f"the configuration {path} cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error.args[0] if isinstance(error, KeyError) and error.args else error).split("\n")
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def model_config(source: str | Mapping[str, Any]) -> dict[str, Any]:
    """The ``model`` part of a configuration.

    Args:
        source: mmdet name (``retinanet/retinanet_r50_fpn_1x_coco``), a file, or a dictionary: the model itself, or
            with a key ``model``, or with ``_base_`` (name or file) and the parts of its model to change.

    Raises:
        ValueError: unknown name, or no model in it.
    """
    if isinstance(source, str):
        content: Mapping[str, Any] = _read(source).to_dict()
    elif "_base_" in source:
        base = _read(str(source["_base_"]))
        changes = {key: value for key, value in source.items() if key != "_base_"}
        try:
            base.merge_from_dict(_plain(changes if "model" in changes else {"model": changes}))
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{source['_base_']} cannot be changed by {changes}: {_first_line(error)}") from error
        content = base.to_dict()
    else:
        content = source
    model = content.get("model", content)
    if not isinstance(model, Mapping) or "type" not in model:
        raise ValueError(f"no detector in the configuration {source!r}: it needs model: {{type: ...}}")
    return _plain(model)  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(v) for v in value)
    return copy.deepcopy(value)


def _without_downloads(model: dict[str, Any]) -> dict[str, Any]:
    """Drop ``init_cfg`` of type Pretrained everywhere (they name weights on the network)."""
    out = {}
    for key, value in model.items():
        if key == "init_cfg" and isinstance(value, Mapping) and value.get("type") == "Pretrained":
            continue
        out[key] = _without_downloads(value) if isinstance(value, dict) else value
    return out


def build_detector(
    source: str | Mapping[str, Any], *, pretrained: bool, initialise: bool, role: str = "detector"
) -> nn.Module:
    """Build an mmdet detector whose maps can be recorded.

    Batch norm is the ordinary one (SyncBN fails on CPU; Lightning's ``sync_batchnorm`` converts), and activations
    are not in place, so that a tapped map survives.

    Args:
        source: see :func:`model_config`.
        pretrained: keep ``init_cfg`` entries of type Pretrained, which may download.
        initialise: call ``init_weights`` (the runner's duty in mmengine).
        role: name in messages.

    Raises:
        ValueError: a configuration that cannot be built, weights that cannot be fetched.
    """
    import_mmdet()
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.model import revert_sync_batchnorm

    config = model_config(source)
    try:
        model = MODELS.build(ConfigDict(config if pretrained else _without_downloads(config)))
    except ImportError:
        raise
    except Exception as error:  # each module checks its own arguments in its own way
        remedy = "; a part given on the command line replaces the whole part: give its type and all its keys, or _base_"
        hint = remedy if 'must contain the key "type"' in str(error) else ""
        raise ValueError(f"the {role}'s configuration cannot be built: {_first_line(error)}{hint}") from error
    model = revert_sync_batchnorm(model)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False
    if initialise:
        _initialise(model, pretrained, role)
    return model  # type: ignore[no-any-return]


def _initialise(model: Any, pretrained: bool, role: str) -> None:
    """``init_weights``; weights that cannot be fetched are named with the remedy."""
    try:
        quietly_initialise(model)
    except OSError as error:  # urllib's errors are among them
        if not pretrained:
            raise
        names = sorted({str(c["checkpoint"]) for c in _pretrained(model)})
        raise ValueError(
            f"the {role}'s pretrained weights {', '.join(names)} cannot be fetched ({_first_line(error)}); "
            "set pretrained: false, or give the weights as student_checkpoint"
        ) from error


def _pretrained(model: nn.Module) -> list[Mapping[str, Any]]:
    found = [getattr(module, "init_cfg", None) for module in model.modules()]
    return [c for c in found if isinstance(c, Mapping) and c.get("type") == "Pretrained" and "checkpoint" in c]


def quietly_initialise(model: Any) -> None:
    """``init_weights`` without mmengine's line for each parameter."""
    import logging

    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    levels = [(handler, handler.level) for handler in logger.handlers]
    for handler, _ in levels:
        handler.setLevel(logging.ERROR)
    try:
        model.init_weights()
    finally:
        for handler, level in levels:
            handler.setLevel(level)


def as_levels(output: Any) -> list[Tensor]:
    """A tapped output as a list of ``(N, C, H, W)`` maps."""
    return [output] if isinstance(output, Tensor) else list(output)


class Tap:
    """Record the output of a named module of a detector on every forward pass.

    Args:
        model: the detector.
        name: dotted module name, e.g. ``neck``.

    Raises:
        ValueError: the detector has no such module.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        modules = dict(model.named_modules())
        if name not in modules:
            raise ValueError(
                f"the detector has no module {name!r} to tap; it has {sorted(n for n, _ in model.named_children())}"
            )
        self.maps: list[Tensor] = []
        self._handle = modules[name].register_forward_hook(self._record)

    def _record(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.maps = as_levels(output)

    def take(self) -> list[Tensor]:
        """The recorded maps, forgotten here."""
        maps, self.maps = self.maps, []
        return maps

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()


@torch.no_grad()
def probe(model: Any, tap: str) -> Geometry:
    """Strides and channels of a tap, from a blank image; leaves modes, statistics and random state alone."""
    modes = {module: module.training for module in model.modules()}
    recorder = Tap(model, tap)
    try:
        model.eval()
        model.extract_feat(next(model.parameters()).new_zeros(1, 3, _PROBE, _PROBE))
        maps = recorder.take()
    except (RuntimeError, TypeError, AssertionError, IndexError) as error:
        raise ValueError(
            f"the parts of the {type(model).__name__} do not fit together ({_first_line(error)}); check in_channels "
            "and out_channels of backbone and neck"
        ) from error
    finally:
        recorder.close()
        for module, mode in modes.items():
            module.training = mode
    strides = tuple(round(_PROBE / x.shape[-1]) for x in maps)
    divisor = int(getattr(model.data_preprocessor, "pad_size_divisor", 1))
    return Geometry(strides, tuple(x.shape[1] for x in maps), divisor)


def num_classes(model: nn.Module) -> int | None:
    """Classes of the detector's box head; None where it cannot be told."""
    for name, module in model.named_modules():
        if name.endswith("bbox_head") and isinstance(getattr(module, "num_classes", None), int):
            return int(module.num_classes)  # type: ignore[arg-type]
    return None


def to_coco(samples: Sequence[Any], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Predictions of mmdet data samples as COCO detections (xywh in pixels of the original image)."""
    rows = []
    for sample in samples:
        found = sample.pred_instances
        boxes = found.bboxes.detach().float().cpu()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        for box, score, label in zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True):
            row = {"image_id": int(sample.img_id), "category_id": int(category_ids[label])}
            rows.append({**row, "bbox": box, "score": float(score)})
    return rows
