"""Weights in and out, and the feature cache on disk."""

import collections
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from septet.lightning_modules.pkd.cache import FeatureCache, cache_bytes
from septet.lightning_modules.pkd.checkpoints import export_mmdet, load_strict, read_detector_state


class Net(nn.Module):
    def __init__(self, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 1), nn.BatchNorm2d(width))
        self.neck = nn.Conv2d(width, 2, 1)
        self.bbox_head = nn.Conv2d(2, classes, 1)


WEIGHTS = Net().state_dict()


def prefixed(prefix: str, state: dict[str, Any] = WEIGHTS) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


FILES: dict[str, tuple[dict[str, Any], str]] = {
    "mmdet": ({"meta": {"epoch": 3}, "state_dict": collections.OrderedDict(WEIGHTS)}, "mmdet"),
    "module": ({"meta": {}, "state_dict": prefixed("module.")}, "mmdet"),
    "mmrazor": ({"meta": {}, "state_dict": {**prefixed("architecture."), **prefixed("teacher.")}}, "mmrazor"),
    "lightning": ({"pytorch-lightning_version": "2.6.6", "state_dict": prefixed("student.")}, "lightning"),
    "bare": (dict(WEIGHTS), "state_dict"),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_known_files(name: str, tmp_path: Path) -> None:
    content, origin = FILES[name]
    torch.save(content, tmp_path / "x.pth")
    state = read_detector_state(tmp_path / "x.pth")
    assert state.origin == origin
    assert set(state.state_dict) == set(WEIGHTS)
    report = load_strict(Net(), state, required=("",))
    assert len(report.matched) == len(WEIGHTS)


def test_teacher_half_of_an_mmrazor_file(tmp_path: Path) -> None:
    other = {key: value + 1 for key, value in WEIGHTS.items()}
    torch.save({"state_dict": {**prefixed("architecture."), **prefixed("teacher.", other)}}, tmp_path / "x.pth")
    teacher = read_detector_state(tmp_path / "x.pth", part="teacher").state_dict
    torch.testing.assert_close(teacher["neck.weight"], WEIGHTS["neck.weight"] + 1)


def test_trainer_files_with_numpy_and_history_buffers_load(tmp_path: Path) -> None:
    content: dict[str, Any] = {"meta": {"seed": np.int64(3), "lr": np.float64(0.1)}, "state_dict": dict(WEIGHTS)}
    content["curve"] = np.arange(4.0)
    logging = pytest.importorskip("mmengine.logging", reason="SKIPPED FOR LACK OF the detection extra")
    content["message_hub"] = {"log_scalars": {"train/loss": logging.HistoryBuffer([1.0, 2.0], [1, 1])}}
    torch.save(content, tmp_path / "x.pth")
    assert read_detector_state(tmp_path / "x.pth").meta["seed"] == 3


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_files_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": dict(WEIGHTS), "extra": Evil()}, path)
    with pytest.raises(ValueError, match="never executed"):
        read_detector_state(path)
    assert "executed" not in capsys.readouterr().out
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="refused"):
        read_detector_state(path)
    torch.save({"meta": {}, "state_dict": {}}, path)
    with pytest.raises(ValueError, match="empty"):
        read_detector_state(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="list"):
        read_detector_state(path)
    torch.save(FILES["lightning"][0], path)
    with pytest.raises(ValueError, match="Lightning"):
        read_detector_state(path, part="teacher")
    with pytest.raises(ValueError, match="unknown part"):
        read_detector_state(path, part="both")
    with pytest.raises(FileNotFoundError):
        read_detector_state(tmp_path / "absent.pth")


def test_load_report_lists_each_key_once() -> None:
    state = {k: v for k, v in WEIGHTS.items() if k != "bbox_head.bias"} | {"extra": torch.zeros(1)}
    model = Net(classes=5)
    report = load_strict(model, state)
    assert report.missing == ["bbox_head.bias"]
    assert report.mismatched == ["bbox_head.weight"]
    assert report.unexpected == ["extra"]
    assert len(report.matched) == len(WEIGHTS) - 2
    torch.testing.assert_close(model.neck.weight, WEIGHTS["neck.weight"])
    assert "1 unexpected (extra)" in str(report)


@pytest.mark.parametrize("bad", ["missing", "shape"])
def test_required_parts_must_fit_and_nothing_is_loaded(bad: str) -> None:
    state = dict(WEIGHTS)
    if bad == "missing":
        del state["neck.bias"]
    else:
        state["neck.bias"] = torch.zeros(7)
    model = Net()
    before: torch.Tensor = model.state_dict()["backbone.0.weight"].clone()
    with pytest.raises(ValueError, match=r"neck\.bias"):
        load_strict(model, state)
    torch.testing.assert_close(model.state_dict()["backbone.0.weight"], before, rtol=0, atol=0)
    load_strict(model, state, required=("backbone",))


def test_export_is_a_plain_mmdet_file(tmp_path: Path) -> None:
    path = tmp_path / "student.pth"
    export_mmdet(path, WEIGHTS, classes=["a", "b"], config="model = {}", epoch=2, iteration=50)
    content = torch.load(path, weights_only=True)
    assert content["meta"] == {"dataset_meta": {"classes": ("a", "b")}, "cfg": "model = {}", "epoch": 2, "iter": 50}
    assert read_detector_state(path).origin == "mmdet"
    with pytest.raises(ValueError, match="empty"):
        export_mmdet(path, {}, classes=[])


SHAPES = [(4, 6, 8), (4, 3, 4)]
HEADER = {"teacher": "abc", "transforms": "t1"}


def levels(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def test_cache_round_trip(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "c", HEADER, [11, 7, 9], SHAPES)
    cache.write(7, 0, levels(1))
    cache.write(9, 1, levels(2))
    again = FeatureCache.open(tmp_path / "c", HEADER)
    read = again.read([9, 7], [1, 0])
    assert [x.dtype for x in read] == [torch.float16] * 2
    for level, first, second in zip(read, levels(2), levels(1), strict=True):
        torch.testing.assert_close(level, torch.stack([first, second]).half(), rtol=0, atol=0)
    size = sum(p.stat().st_size for p in (tmp_path / "c").glob("level*.bin"))
    assert size == cache_bytes(SHAPES, 3, flips=2)


def test_cache_sizes_of_the_specification() -> None:
    coco = [(256, 100, 168), (256, 50, 84), (256, 25, 42), (256, 13, 21)]
    assert cache_bytes(coco, 1) == pytest.approx(11.4e6, rel=0.01)
    assert cache_bytes(coco, 118287) == pytest.approx(1.35e12, rel=0.01)


def test_cache_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(cache_bytes(SHAPES, 100000, flips=2))):
        FeatureCache.create(tmp_path / "big", HEADER, range(100000), SHAPES, limit_gb=0.01)
    assert not (tmp_path / "big").exists()
    cache = FeatureCache.create(tmp_path / "c", HEADER | {"padded_shape": "96x128"}, [1], SHAPES, flips=1)
    with pytest.raises(KeyError, match="never written"):
        cache.read([1], [0])
    with pytest.raises(KeyError, match="not part"):
        cache.read([2], [0])
    with pytest.raises(KeyError, match="flip 1"):
        cache.write(1, 1, levels(0))
    with pytest.raises(ValueError, match="shape"):
        cache.write(1, 0, levels(0)[:1])
    with pytest.raises(ValueError, match="padded_shape"):
        cache.check_shape((96, 160))
    with pytest.raises(ValueError, match="transforms = 't1'"):
        FeatureCache.open(tmp_path / "c", HEADER | {"padded_shape": "96x128", "transforms": "t2"})
    with pytest.raises(FileNotFoundError):
        FeatureCache.open(tmp_path / "absent", HEADER)
    assert json.loads((tmp_path / "c" / "header.json").read_text())["images"] == [1]
