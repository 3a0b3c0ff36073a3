"""Shipped cases name detectors that exist, and say what the specification says."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from septet.lightning_modules.pkd.detectors import model_config
from septet.lightning_modules.pkd.specs import LossSpec, TeacherSpec

FOLDER = Path(__file__).resolve().parents[3] / "src/septet/configs/pkd"
PAPER = Path(__file__).resolve().parents[3] / "src/septet/lightning_modules/pkd/paper.yaml"
FULL = sorted(path.stem for path in FOLDER.glob("coco_*.yaml"))
TWO_STAGE = ("FasterRCNN", "MaskRCNN")


def arguments(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]["init_args"]
    return content


def test_the_papers_pairs_are_there() -> None:
    assert len(FULL) == 6
    rows = yaml.safe_load(PAPER.read_text())
    assert sorted(row["config"] for row in rows) == [f"pkd/{name}.yaml" for name in FULL]
    assert all(0.4 < row["value"] < 0.45 for row in rows)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.usefixtures("smoke")
def test_full_scale_pairs(name: str) -> None:
    args = arguments(name)
    teacher, student = model_config(args["teachers"][0]["config"]), model_config(args["student"])
    spec = LossSpec(**args["losses"][0])
    assert spec.weight == (6.0 if teacher["type"] in TWO_STAGE else 10.0), "alpha by the teacher's kind"
    channels = [
        m["neck"][-1]["out_channels"] if isinstance(m["neck"], list) else m["neck"]["out_channels"]
        for m in (teacher, student)
    ]
    assert channels == [256, 256]
    assert TeacherSpec(**args["teachers"][0]).checkpoint is not None


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_first_line_is_the_command(path: Path) -> None:
    assert path.read_text().splitlines()[0] == f"# septet fit -c configs/pkd/{path.name}"
