"""The svd size with tiny random configurations: parity with the stock class, names, and behaviour."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import UNetSpatioTemporalConditionModel
from tests.lightning_modules.drivingdojo.nets import unet, vae

from septet.lightning_modules.drivingdojo.module import WorldModel
from septet.lightning_modules.drivingdojo.svd import LoRALinear, PerFrameUNet, add_lora

UNET, VAE = unet(16), vae(8)


@pytest.fixture(autouse=True)
def _narrow_norms(monkeypatch):
    """Group norms of 32 groups need 32 channels; the tiny configurations use 8."""
    init = torch.nn.GroupNorm.__init__

    def narrow(self, num_groups, num_channels, *args, **kwargs):
        init(self, min(num_groups, 4) if num_channels % 32 else num_groups, num_channels, *args, **kwargs)

    monkeypatch.setattr(torch.nn.GroupNorm, "__init__", narrow)


def _pair():
    torch.manual_seed(0)
    stock = UNetSpatioTemporalConditionModel(**UNET).eval()
    ours = PerFrameUNet(**UNET).eval()
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


def _inputs(frames=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, frames, 8, 8, 8, generator=generator)
    context = torch.randn(2, 1, 16, generator=generator)
    return x, torch.tensor([0.3, -0.5]), context, torch.tensor([[5.0, 127.0, 0.0]] * 2)


@torch.no_grad()
def test_constant_context_equals_the_stock_class():
    stock, ours = _pair()
    x, time, context, ids = _inputs()
    want = stock(x, time, context, ids).sample
    torch.testing.assert_close(ours(x, time, context, ids)[0], want, atol=1e-5, rtol=1e-5)
    spread = context[:, None].expand(-1, 3, -1, -1)
    frames = time[:, None].expand(-1, 3), ids[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(ours(x, frames[0], spread, frames[1])[0], want, atol=1e-5, rtol=1e-5)
    pooled = ours(x, time, context, ids, temporal_context="per_frame")[0]
    torch.testing.assert_close(pooled, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_later_frame_has_its_own_context():
    _, ours = _pair()
    x, time, context, ids = _inputs()
    spread = context[:, None].repeat(1, 3, 1, 1)
    before = ours(x, time, spread, ids)[0]
    spread[:, 2] += 1
    assert not torch.allclose(ours(x, time, spread, ids)[0][:, 2], before[:, 2], atol=1e-4)
    with pytest.raises(ValueError, match="beside 2 x 3 frames"):
        ours(x, time, spread[:, :2], ids)
    with pytest.raises(ValueError, match="temporal_context"):
        ours(x, time, spread, ids, temporal_context="all")


def _model(**changes):
    torch.manual_seed(0)
    settings = {"size": "svd", "frame_size": (16, 16), "frames": 4, "steps": 2, "net": {"unet": UNET, "vae": VAE}}
    return WorldModel(**(settings | changes))


def test_loss_and_dreams():
    model = _model()
    model.configure_model()
    assert model.latent_shape == (4, 8, 8)
    frames = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    actions = torch.rand(2, 3, 2)
    model.loss(frames, actions).backward()
    assert all(p.grad is not None for p in model.net.actions.parameters())
    assert not any(p.requires_grad for p in model.codec.parameters())
    video = model.eval().generate(frames[:, :1], torch.rand(2, 6, 2))
    assert video.shape == (2, 7, 3, 16, 16)
    assert torch.equal(video[:, 0], frames[:, 0])
    streamed = torch.stack(list(model.dream(frames[:1, :1], actions[0], seed=3)))
    assert (streamed.int() - model.generate(frames[:1, :1], actions[:1], seed=3)[0, 1:].int()).abs().max() <= 2


def test_an_action_changes_its_frame():
    model = _model()
    model.configure_model()
    frames = torch.randint(0, 256, (1, 4, 3, 16, 16), dtype=torch.uint8)
    actions = torch.rand(1, 3, 2)
    before = model.eval().generate(frames[:, :1], actions)
    actions[:, 2] += 1
    assert not torch.equal(model.generate(frames[:, :1], actions), before)


def test_lora_trains_little_and_starts_neutral():
    _, net = _pair()
    x, time, context, ids = _inputs()
    with torch.no_grad():
        before = net(x, time, context, ids)[0]
        assert add_lora(net, 2) > 0
        torch.testing.assert_close(net(x, time, context, ids)[0], before)
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert 0 < trained < 0.1 * sum(p.numel() for p in net.parameters())
    assert any(isinstance(m, LoRALinear) for m in net.modules())


def test_needs_weights_or_a_configuration():
    with pytest.raises(ValueError, match="needs weights"):
        _model(net={}).configure_model()
    with pytest.raises(ValueError, match="no folder 'unet'"):
        _model(weights="nowhere").configure_model()
