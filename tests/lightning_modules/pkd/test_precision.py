"""Compiled and half-precision teachers, mixed precision of the student, and losses on float16 maps."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from septet.kernels.pearson import pkd_loss
from septet.lightning_modules.pkd import DetectionDistiller, TeacherSpec
from septet.lightning_modules.pkd.losses import cwd_loss, fitnet_loss
from septet.lightning_modules.pkd.teachers import Teacher

Args = dict[str, Any]
Make = Callable[..., Any]


def both(args: Args, size: int = 64) -> tuple[list[Tensor], list[Tensor], Teacher]:
    """Maps of the plain and of the compiled teacher on the same batch."""
    config = args["teachers"][0]["config"]
    teachers = []
    for compile_it in (False, True):
        torch.manual_seed(0)
        teachers.append(Teacher(TeacherSpec(config, compile=compile_it)))
    teachers[1].model.load_state_dict(teachers[0].model.state_dict())
    images = torch.randn(2, 3, size, 2 * size, generator=torch.Generator().manual_seed(1))
    plain, compiled = (t.features(images, t.normalisation, [(size, 2 * size)] * 2) for t in teachers)
    return plain, compiled, teachers[1]


def assert_near(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b) == 5
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-4)


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without a code generator: traces the graph, hooks included, and runs it eagerly."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiler(f, backend="eager", **options))


@pytest.mark.usefixtures("traced_only")
def test_traced_teacher_hands_out_the_same_maps_at_every_size(module_args: Args) -> None:
    plain, compiled, teacher = both(module_args)
    assert_near(plain, compiled)
    images = torch.randn(1, 3, 96, 96)
    first = [x.clone() for x in teacher.features(images, teacher.normalisation, [(96, 96)])]
    again = teacher.features(images + 1, teacher.normalisation, [(96, 96)])
    assert [tuple(x.shape[-2:]) for x in again[:2]] == [(12, 12), (6, 6)]
    assert not torch.allclose(first[0], again[0]), "maps are of this batch, not of the traced one"


@pytest.mark.usefixtures("traced_only")
def test_training_with_a_compiled_teacher(module_args: Args, make_data: Make, fit: Make) -> None:
    values = []
    for compile_it in (False, True):
        module_args["teachers"][0]["compile"] = compile_it
        torch.manual_seed(0)
        module = DetectionDistiller(**module_args)
        trainer = fit(module, make_data(), limit_train_batches=2, limit_val_batches=0)
        values.append(float(trainer.callback_metrics["train/kd0_pkd"]))
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="SKIPPED FOR LACK OF a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_teacher(module_args: Args) -> None:
    plain, compiled, _ = both(module_args)
    assert_near(plain, compiled)


def half_maps(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    s, t = (scale * torch.randn(2, 4, 48, 64, generator=generator) for _ in range(2))
    return s.half(), (t + s).half()


@pytest.mark.parametrize("impl", ["closed_form", "reference"])
def test_float16_maps_are_read_in_float32(impl: str) -> None:
    student, teacher = half_maps(scale=300.0)  # sums of squares are far outside float16
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = pkd_loss([student], [teacher], impl=impl)
    full = student.detach().float().requires_grad_()
    expected = pkd_loss([full], [teacher.float()], impl=impl)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    (loss * 2.0**12).backward()  # as a gradient scaler does
    (expected * 2.0**12).backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.float16
    torch.testing.assert_close(student.grad.float(), full.grad, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [fitnet_loss, cwd_loss])
def test_other_losses_on_float16_maps(loss: Callable[..., Tensor]) -> None:
    student, teacher = half_maps(scale=100.0 if loss is fitnet_loss else 1.0)
    value = loss(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student.detach().float(), teacher.float()).item(), rel=1e-5)
    value.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("teacher", ["32", "bf16"])
def test_bfloat16_training_is_near_the_full_one(teacher: str, module_args: Args, make_data: Make, fit: Make) -> None:
    module_args["teachers"][0]["precision"] = teacher
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        module = DetectionDistiller(**module_args)
        trainer = fit(module, make_data(), precision=precision, limit_train_batches=1, limit_val_batches=0)
        losses.append(trainer.callback_metrics["train/loss"].item())
        assert all(p.dtype == torch.float32 for p in module.student.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
