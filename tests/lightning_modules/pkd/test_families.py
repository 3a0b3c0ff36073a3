"""Detectors of other families: drop path in a Swin teacher, deformable convolution, other statistics."""

from typing import Any

import pytest
import torch

from septet.lightning_modules.pkd.detectors import build_detector, model_config, probe
from septet.lightning_modules.pkd.preprocess import Normalisation
from septet.lightning_modules.pkd.specs import TeacherSpec
from septet.lightning_modules.pkd.teachers import Teacher

pytestmark = pytest.mark.usefixtures("smoke")


@pytest.fixture
def swin() -> dict[str, Any]:
    config = model_config("swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco")
    small = {"embed_dims": 24, "num_heads": [1, 2, 4, 8], "depths": [2, 2, 2, 2], "drop_path_rate": 0.5}
    config["backbone"] |= {**small, "convert_weights": False}
    config["neck"] |= {"in_channels": [24, 48, 96, 192], "out_channels": 32}
    for head in ("rpn_head", "roi_head"):
        config[head] = _narrow(config[head])
    return config


def _narrow(config: dict[str, Any]) -> dict[str, Any]:
    """256 channels become 32 wherever a head names them."""
    out = {}
    for key, value in config.items():
        inner = _narrow(value) if isinstance(value, dict) else value
        out[key] = 32 if value == 256 and key in ("in_channels", "out_channels", "feat_channels") else inner
    return out


def features(teacher: Teacher) -> list[torch.Tensor]:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return teacher.features(images, teacher.normalisation, [(64, 64)])


def test_swin_teacher_is_deterministic_and_mmrazor_mode_is_not(swin: dict[str, Any]) -> None:
    teacher = Teacher(TeacherSpec(swin))
    assert teacher.geometry.strides == (4, 8, 16, 32, 64)
    teacher.model.train()
    for a, b in zip(features(teacher), features(teacher), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    reference = Teacher(TeacherSpec(swin, mode="mmrazor"))
    first, second = features(reference)[0], features(reference)[0]
    assert (first - second).norm() > 0.01 * first.norm(), "drop path stays on"


def test_precision_of_the_teacher(swin: dict[str, Any]) -> None:
    torch.manual_seed(0)
    full = features(Teacher(TeacherSpec(swin)))[0]
    torch.manual_seed(0)
    low = features(Teacher(TeacherSpec(swin, precision="bf16")))[0]
    assert 0 < (full - low.float()).norm() < 0.1 * full.norm()


def test_other_statistics_give_the_same_maps(swin: dict[str, Any]) -> None:
    teacher = Teacher(TeacherSpec(swin))
    caffe = Normalisation((102.98, 115.95, 122.77), (1.0, 1.0, 1.0), bgr_to_rgb=False)
    pixels = torch.randint(0, 255, (1, 3, 64, 64)).float()
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (teacher.normalisation.mean, teacher.normalisation.std))
    own = teacher.features((pixels.flip(1) - mean) / std, teacher.normalisation, [(64, 64)])
    other = teacher.features(pixels - torch.tensor(caffe.mean).view(1, 3, 1, 1), caffe, [(64, 64)])
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_reppoints_trains_and_detects_on_the_provided_deformable_convolution() -> None:
    from mmdet.testing import demo_mm_inputs

    config = model_config("reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco")
    config["backbone"]["depth"] = 18
    config["backbone"] |= {"base_channels": 16, "stem_channels": 16}
    config["neck"]["in_channels"] = [16, 32, 64, 128]
    model: Any = build_detector(config, pretrained=False, initialise=True)
    assert probe(model, "neck").strides == (8, 16, 32, 64, 128)
    inputs = demo_mm_inputs(1, [[3, 64, 64]])
    prepared = model.data_preprocessor(inputs, True)
    loss, _ = model.parse_losses(model(**prepared, mode="loss"))
    loss.backward()
    offsets = [p for n, p in model.named_parameters() if "reppoints_cls_conv" in n]
    assert offsets
    assert all(p.grad is not None and p.grad.isfinite().all() for p in offsets)
    model.eval()
    with torch.no_grad():
        assert len(model(**model.data_preprocessor(demo_mm_inputs(1, [[3, 64, 64]]), False), mode="predict")) == 1
