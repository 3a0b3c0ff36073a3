"""``septet data verify coco -c CONFIG``: the data of a case, its overrides, and the model's own proof."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from septet.datamodules.coco.cases import read_case, verify_case
from septet.datamodules.coco.commands import main
from septet.datamodules.coco.validation import read_coco

DATA: dict[str, Any] = {"class_path": "septet.datamodules.coco.COCODetection", "init_args": {"synthetic": 4}}


class Report:
    def __init__(self, errors: list[str]) -> None:
        self.errors = errors

    def __str__(self) -> str:
        return f"report with {len(self.errors)} errors"

    def to_json(self) -> str:
        return json.dumps({"errors": self.errors})


class Model:
    def __init__(self, bad: bool = False) -> None:
        self.bad = bad

    def verify(self, datamodule: Any) -> Report:
        assert set(datamodule.datasets) == {"train", "val", "test"}
        return Report(["teacher is asleep"] if self.bad else [])


class Silent:
    """A model that has nothing to prove."""


def case(folder: Path, model: str = "Model", **data: Any) -> str:
    content = {"model": {"class_path": f"{__name__}.{model}"}, "data": {**DATA, "init_args": {"synthetic": 4} | data}}
    (folder / "case.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "case.yaml")


def test_report_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = case(tmp_path), tmp_path / "report.json"
    assert main("verify", ["-c", path, "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == {"errors": []}
    assert main("verify", ["-c", path, "model.bad=true"]) == 1
    shown = capsys.readouterr().out
    assert "train: 4 images" in shown
    assert "classes: disc, rectangle, triangle" in shown
    assert "report with 1 errors" in shown
    assert verify_case(case(tmp_path, "Silent")) == 0


def test_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = case(tmp_path, root="${oc.env:WHERE,nowhere}")
    monkeypatch.setenv("WHERE", "/there")
    read = read_case(path, ["data.seed=3", "data.init_args.flip=0.25", "model.names=[a, b]"])
    assert read["data"]["init_args"] == {"synthetic": 4, "root": "/there", "seed": 3, "flip": 0.25}
    assert read["model"]["init_args"] == {"names": ["a", "b"]}
    assert read_case("configs/pkd/smoke.yaml")["data"]["init_args"]["synthetic"] == 24
    with pytest.raises(ValueError, match="KEY=VALUE"):
        read_case(path, ["data.seed"])
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        read_case("configs/pkd/smok.yaml")
    (tmp_path / "half.yaml").write_text("data: {class_path: x}\n")
    with pytest.raises(ValueError, match="holds no model"):
        read_case(str(tmp_path / "half.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON"),
        ("[]", "holds a list"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "record 0 of 'images' has no file_name, width",
        ),
        ('{"images": [], "annotations": [], "categories": [3]}', "record 0 of 'categories' has no id, name"),
    ],
)
def test_files_that_are_no_coco(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_coco(tmp_path / "x.json")
    assert str(tmp_path / "x.json") in str(caught.value)
