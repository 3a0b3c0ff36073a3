"""Networks against the published code, with procedural weights."""

import json
import zlib

import numpy as np
import pytest
import torch
from tests.support.paths import golden
from torch.nn import functional as F

from septet.lightning_modules.mscmnet.checkpoint import from_official
from septet.lightning_modules.mscmnet.losses import quadruple_center_triplet
from septet.lightning_modules.mscmnet.model import AGWNet, MIMBStage, NonLocal, QuadStreamNet, parameter_count


def procedural(key, shape):
    n = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_mean"):
        value = 0.1 * n
    elif key.endswith("running_var"):
        value = 1 + 0.1 * np.abs(n)
    elif len(shape) == 1:
        value = 1 + 0.1 * n if key.endswith("weight") else 0.02 * n
    else:
        value = n / np.sqrt(np.prod(shape[1:]))
    if key.startswith("NL_") and key.split(".")[2] in ("theta", "phi"):
        value = value * 0.15
    if key.endswith("bn3.weight"):
        value = value * 0.5
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def official_state(name):
    shapes = json.loads(golden("mscmnet", "official_keys.json").read_text())[name]["used"]
    return {k: procedural(k, s) for k, s in shapes.items()}


def images(count, height, width):
    return torch.from_numpy(np.random.default_rng(7).standard_normal((count, 3, height, width)).astype(np.float32))


def test_mimb():
    file = np.load(golden("mscmnet", "mimb_tiny.npz"))
    x0 = torch.from_numpy(file["x"]).requires_grad_()
    sources = [(8, 4), (16, 4), (24, 2), (None, None)]
    x = x0
    for i, (channels, stride) in enumerate(sources):
        stage = MIMBStage(32, (6, 4), source_channels=channels, source_stride=stride, head_dim=6)
        names = {k: torch.from_numpy(file[k]) for k in file.files if k.startswith(f"att{i}.")}
        state = from_official({f"layerATT{k[3:]}": v for k, v in names.items()})
        stage.load_state_dict({k.removeprefix(f"mimb.{i}."): v for k, v in state.items()})
        x = stage(x, torch.from_numpy(file[f"xlay{i}"]) if channels else None)
        np.testing.assert_allclose(x.detach().numpy(), file[f"y{i}"], atol=5e-6)
    x.square().mean().backward()
    np.testing.assert_allclose(x0.grad.numpy(), file["grad_x"], atol=5e-6)


def test_non_local_with_one_inner_channel():
    file = np.load(golden("mscmnet", "agw.npz"))
    block = NonLocal(16, 1)
    state = {f"NL_2.0.{k[3:]}": torch.from_numpy(file[k]) for k in file.files if k.startswith("nl.")}
    block.load_state_dict({k.removeprefix("trunk.nonlocal2.0."): v for k, v in from_official(state).items()})
    x = torch.from_numpy(file["nl_x"])
    with torch.no_grad():
        np.testing.assert_allclose(block.eval()(x).numpy(), file["nl_y_eval"], atol=1e-6)
        np.testing.assert_allclose(block.train()(x).numpy(), file["nl_y_train"], atol=1e-6)


def test_agw():
    file = np.load(golden("mscmnet", "agw.npz"))
    net = AGWNet(395)
    net.load_state_dict(from_official(official_state("agw")), strict=True)
    x = images(2, 288, 144)
    with torch.no_grad():
        for number, modality in ((1, "visible"), (2, "infrared")):
            out = net.eval().embed(x, modality)
            np.testing.assert_allclose(out.pool.numpy(), file[f"net_modal{number}_pool"], atol=1e-5)
            np.testing.assert_allclose(out.bn.numpy(), file[f"net_modal{number}_bn"], atol=1e-5)


@pytest.fixture(scope="module")
def net():
    model = QuadStreamNet(395)
    dead = json.loads(golden("mscmnet", "official_keys.json").read_text())["mscmnet"]["dropped"]
    state = official_state("mscmnet") | dict.fromkeys(dead, torch.zeros(1))
    model.load_state_dict(from_official(state), strict=True)
    return model


def test_the_whole_network_in_evaluation(net):
    file = np.load(golden("mscmnet", "net_full.npz"))
    assert parameter_count(net) == int(file["trainable_used"])
    x = images(4, 384, 192)[:2]
    with torch.no_grad():
        for number, modality in ((1, "visible"), (2, "infrared")):
            out = net.eval().embed(x, modality)
            np.testing.assert_allclose(out.pool.numpy(), file[f"eval_modal{number}_pool"], atol=1e-5)
            np.testing.assert_allclose(out.bn.numpy(), file[f"eval_modal{number}_bn"], atol=1e-5)


def streams(x):
    return [torch.stack([x[s], 0.7 * x[s]]) for s in range(4)]


def test_the_whole_network_in_training(net):
    file = np.load(golden("mscmnet", "net_full.npz"))
    labels = torch.tensor([3, 9] * 4)
    with torch.no_grad():
        pool, logits = net.train()(*streams(images(4, 384, 192)))
    np.testing.assert_allclose(pool.numpy(), file["train_pool"], atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), file["train_logits"], atol=5e-4)
    assert float(F.cross_entropy(logits, labels)) == pytest.approx(float(file["train_ce"]), abs=1e-4)
    assert float(quadruple_center_triplet(pool, labels)) == pytest.approx(float(file["train_qct"]), abs=1e-4)


@pytest.mark.slow
def test_gradients_of_the_whole_network_in_double(net):
    file = np.load(golden("mscmnet", "net_full.npz"))
    labels = torch.tensor([3, 9] * 4)
    double = net.double().train()
    pool, logits = double(*(s.double() for s in streams(images(4, 384, 192))))
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    np.testing.assert_allclose(pool.detach().numpy(), file["train64_pool"], rtol=1e-6, atol=1e-9)
    assert loss.item() == pytest.approx(float(file["train64_ce"]), rel=1e-6)
    qct = quadruple_center_triplet(pool.detach(), labels)
    assert float(qct) == pytest.approx(float(file["train64_qct"]), rel=1e-6)
    grads = {n: p.grad for n, p in double.named_parameters()}
    for key in (k.removeprefix("grad64_norm.") for k in file.files if k.startswith("grad64_norm.")):
        (name,) = from_official({key: 0})
        grad = grads[name]
        assert float(grad.norm()) == pytest.approx(float(file[f"grad64_norm.{key}"]), rel=1e-6)
        head = file[f"grad64_head.{key}"]
        np.testing.assert_allclose(grad.flatten()[:16].numpy(), head, rtol=1e-6, atol=1e-6 * np.abs(head).max())
    assert all(g is not None for n, g in grads.items() if n != "neck.bias")
    net.float()
