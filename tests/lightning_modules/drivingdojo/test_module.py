"""The world model: objective, conditioning, dreaming, average and bad input."""

from __future__ import annotations

import pytest
import torch
from tests.lightning_modules.drivingdojo import nets

from septet.lightning_modules.drivingdojo.module import WorldModel

SMALL = {"size": "small", "frame_size": (16, 32), "frames": 5, "steps": 2, "net": {"dim": 32, "depth": 1, "heads": 2}}
TINY = {"size": "tiny", "frame_size": (16, 32), "frames": 5, "steps": 2, "net": nets.TINY}


def _model(settings, **changes):
    torch.manual_seed(0)
    model = WorldModel(**(settings | changes))
    model.configure_model()
    with torch.no_grad():  # zero-initialised outputs and gates would hide everything
        for p in model.net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return model.eval()


def _clip(batch=2, frames=5, size=(16, 32)):
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8, generator=generator)
    return video, torch.rand(batch, frames - 1, 2, generator=generator)


def _noise(model, frames):
    generator = torch.Generator().manual_seed(2)
    sigma = torch.rand(frames.shape[:2], generator=generator) + 0.1
    return {"sigma": sigma, "noise": torch.randn(*frames.shape[:2], *model.latent_shape, generator=generator)}


FORMS = [TINY, SMALL, SMALL | {"conditioning": "cross_tokens"}]


@pytest.mark.parametrize("settings", FORMS)
def test_a_batch_equals_accumulated_single_items(settings):
    model = _model(settings)
    frames, actions = _clip(3)
    known = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    given = _noise(model, frames)
    model.loss(frames, actions, known=known, augment=False, **given).backward()
    whole = {k: p.grad.clone() for k, p in model.net.named_parameters() if p.grad is not None}
    model.zero_grad()
    for b in range(3):
        one = slice(b, b + 1)
        rows = {k: v[one] for k, v in given.items()}
        (model.loss(frames[one], actions[one], known=known[one], augment=False, **rows) / 3).backward()
    for name, p in model.net.named_parameters():
        if name in whole:
            torch.testing.assert_close(p.grad, whole[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", FORMS)
def test_noise_at_known_frames_has_no_effect(settings):
    model = _model(settings)
    frames, actions = _clip()
    known = torch.tensor([[1, 1, 0, 0, 0]] * 2).bool()
    given = _noise(model, frames)
    before = model.loss(frames, actions, known=known, augment=False, **given)
    given["sigma"][:, :2] *= 3
    given["noise"][:, :2] += 1
    assert torch.equal(model.loss(frames, actions, known=known, augment=False, **given), before)


@pytest.mark.parametrize("settings", FORMS)
def test_an_item_does_not_depend_on_its_batch(settings):
    model = _model(settings)
    frames, _ = _clip(3)
    actions = torch.rand(3, 9, 2, generator=torch.Generator().manual_seed(1))
    whole = model.generate(frames[:, :1], actions, seed=5)
    assert whole.shape == (3, 10, 3, 16, 32)
    assert torch.equal(whole[:, 0], frames[:, 0])
    for b in range(3):
        one = model.generate(frames[b : b + 1, :1], actions[b : b + 1], seed=5 + b)
        assert (one.int() - whole[b : b + 1].int()).abs().max() <= 1
    streamed = torch.stack(list(model.dream(frames[1:2, :1], actions[1], seed=6)))
    assert (streamed.int() - whole[1, 1:].int()).abs().max() <= 1
    assert not torch.equal(model.generate(frames[:, :1], actions, seed=6), whole)


def test_tiny_frames_are_blind_to_later_actions():
    model = _model(TINY)
    frames, actions = _clip()
    before = model.generate(frames[:, :1], actions)
    actions[:, 2] += 0.5
    after = model.generate(frames[:, :1], actions)
    assert torch.equal(after[:, :3], before[:, :3])
    assert not torch.equal(after[:, 3], before[:, 3])


@pytest.mark.parametrize("settings", FORMS)
def test_actions_and_images_can_be_dropped(settings):
    model = _model(settings)
    frames, actions = _clip()
    latents = model.codec.encode(frames)
    known = torch.arange(5).expand(2, 5) < 1
    off, on = torch.zeros(2).bool(), torch.ones(2).bool()
    x = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.ones(2, 5)

    def run(image, action, moves):
        with torch.no_grad():
            return model.denoise(x, sigma, latents, known, moves, None, image, action)[:, 1:]

    assert torch.equal(run(off, on, actions), run(off, on, actions + 1))
    assert not torch.equal(run(off, off, actions), run(off, off, actions + 1))
    assert not torch.equal(run(on, on, actions), run(off, on, actions))


@pytest.mark.parametrize("settings", [TINY, SMALL])
def test_guidance_of_one_is_one_pass(settings):
    model = _model(settings)
    frames, actions = _clip()
    plain = model.generate(frames[:, :1], actions)
    assert torch.equal(model.generate(frames[:, :1], actions, guidance=(1.0, 1.0)), plain)
    near = model.generate(frames[:, :1], actions, guidance=(1.0, 1.000001))
    assert (near.int() - plain.int()).abs().max() <= 1
    assert not torch.equal(model.generate(frames[:, :1], actions, guidance=(1.0, 3.0)), plain)


def test_dropout_shares():
    model = _model(TINY, dropout=(0.2, 0.3, 0.1))
    image, action = model._draw_dropout(20_000, torch.device("cpu"), True)
    both = (image & action).float().mean()
    assert image.float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert action.float().mean().item() == pytest.approx(0.4, abs=0.02)
    assert both.item() == pytest.approx(0.1, abs=0.02)


def test_a_start_of_several_frames_and_other_samplers():
    model = _model(SMALL)
    frames, actions = _clip()
    for method in ("heun", "dpmpp_2m"):
        video = model.generate(frames[:, :3], actions, method=method)
        assert torch.equal(video[:, :3], frames[:, :3])


def test_average_covers_everything_and_swaps_exactly():
    model = _model(TINY)
    for _ in range(3):
        model.average.update(model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)
    assert set(model.average.shadow) == {n for n, p in model.named_parameters() if p.requires_grad}
    before = {n: p.clone() for n, p in model.named_parameters()}
    model.average.swap_in(model)
    assert not torch.equal(model.net.stem.weight, before["net.stem.weight"])
    model.average.swap_out(model)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_gradient_checkpointing_changes_nothing():
    plain, saving = _model(SMALL), _model(SMALL, gradient_checkpointing=True)
    frames, actions = _clip()
    for model in (plain, saving):
        model.train()
        model.loss(frames, actions, augment=False, **_noise(model, frames)).backward()
    torch.testing.assert_close(saving.net.stem.weight.grad, plain.net.stem.weight.grad)


def test_size_small_has_the_stated_parameters():
    model = WorldModel(size="small", frame_size=(64, 128), frames=16)
    model.configure_model()
    assert model.latent_shape == (48, 16, 32)
    assert 20e6 < sum(p.numel() for p in model.net.parameters()) < 40e6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "huge"}, "unknown size"),
        ({"method": "rk4"}, "unknown method"),
        ({"aif_protocol": "loose"}, "unknown aif_protocol"),
        ({"conditioning": "film"}, "unknown conditioning"),
        ({"conditioning": "cross_tokens"}, "no attention"),
        ({"size": "svd", "conditioning": "adaln"}, "cross_tokens"),
        ({"context": 8}, "context=8"),
        ({"train_frames": 1}, "train_frames=1"),
        ({"steps": 0}, "steps=0"),
        ({"lr": 0.0}, "lr=0"),
        ({"dropout": (0.5, 0.5, 0.5)}, "three shares"),
        ({"lora_rank": 4}, "lora_rank"),
        ({"aif_workers": -1}, "aif_workers=-1"),
        ({"extractors": {"is": "a.pt"}}, "unknown extractors is"),
        ({"bonnet": 32}, "bonnet=32"),
        ({"bonnet": "hood"}, "bonnet='hood'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        WorldModel(**settings)


def _call(name, *args, **kwargs):
    return getattr(_model(TINY), name)(*args, **kwargs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, a: _call("loss", f.float(), a), "expected uint8"),
        (lambda f, a: _call("loss", f, a[:, :2]), "2 actions beside 5 frames"),
        (lambda f, a: _call("loss", f, a[..., :1]), "expected"),
        (lambda f, a: _call("loss", f, a * float("nan")), "not finite"),
        (lambda f, a: _call("loss", f, a, known=torch.ones(2, 5).bool()), "no unknown frame"),
        (lambda f, a: _call("loss", f, a, known=torch.ones(2, 4).bool()), "known of shape"),
        (lambda f, a: _call("generate", f, a), "nothing to dream"),
        (lambda f, a: _call("generate", f[:, :1], a, steps=0), "steps=0"),
        (lambda f, a: _call("generate", f[:, :1], a, method="rk4"), "unknown method"),
        (lambda f, a: _call("generate", f[:, :1], a, seed=[1]), "1 seeds beside 2"),
        (lambda f, a: next(_call("dream", f[:, :1], a[0])), "one clip"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*_clip())
