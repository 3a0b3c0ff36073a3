"""Settings, checkpoints and weights that the modules refuse, each in one line that names the remedy."""

import pytest
import torch

from septet.datamodules.reid.evaluation import EvaluationSet
from septet.datamodules.reid.readers import Sample
from septet.lightning_modules.mscmnet import AGW, MSCMNet
from septet.lightning_modules.mscmnet.checks import check_gallery_size, read_weights

SMALL = {"image_size": (96, 48), "trunk": "micro"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"alpha": -0.1}, r"alpha=-0\.1 is outside 0\.\.1"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1\.0 is outside \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing=-0\.1"),
        ({"head_dim": 0}, "head_dim=0 is below 1"),
        ({"num_classes": 1}, "num_classes=1 is below 2"),
        ({"margin": float("nan")}, "margin=nan"),
        ({"trunk": "vit"}, "unknown trunk 'vit': choose from resnet50, micro"),
        ({"schedule": {"warmup": 3}}, r"unknown schedule\.warmup: choose from warmup_epochs"),
        ({"schedule": {"warmup_epochs": -1}}, r"schedule\.warmup_epochs=-1"),
        ({"schedule": {"milestones": [60, 30]}}, r"schedule\.milestones=\[60, 30\]: .* that rise"),
        ({"schedule": {"milestones": 60}}, r"schedule\.milestones=60"),
        ({"rerank": {"k3": 4}}, r"unknown rerank\.k3: choose from k1, k2, weight"),
        ({"rerank": {"k1": 0}}, r"rerank\.k1=0"),
        ({"rerank": {"k2": 1.5}}, r"rerank\.k2=1\.5"),
        ({"rerank": {"weight": 1.2}}, r"rerank\.weight=1\.2 is outside 0\.\.1"),
    ],
)
def test_settings_refused_at_construction(options, word):
    with pytest.raises(ValueError, match=word):
        MSCMNet(**({"num_classes": 6} | SMALL | options))


def test_re_ranking_needs_enough_images():
    samples = [Sample(f"{n}.jpg", n, 1, "visible") for n in range(4)]
    evaluation = EvaluationSet(samples, samples, "regdb", {"x": [[0, 1, 2]]})
    with pytest.raises(ValueError, match=r"rerank\.k1=20: .* are 7 images, set it to at most 6"):
        check_gallery_size({}, evaluation)
    with pytest.raises(ValueError, match=r"rerank\.k2=8: .*at most 7"):
        check_gallery_size({"k1": 6, "k2": 8}, evaluation)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda: AGW(6, **SMALL), "mimb is absent there and True here"),
        (lambda: MSCMNet(6, mimb=False, **SMALL), "mimb is False there and True here"),
        (lambda: MSCMNet(9, **SMALL), "num_classes is 9 there and 6 here"),
    ],
)
def test_a_checkpoint_of_another_network(other, word):
    kept, module = other(), MSCMNet(6, **SMALL)
    kept.configure_model()
    module.configure_model()
    checkpoint = {"state_dict": kept.state_dict(), "hyper_parameters": dict(kept.hparams)}
    with pytest.raises(ValueError, match=word) as error:
        module.on_load_checkpoint(checkpoint)
    assert "\n" not in str(error.value)
    module.on_load_checkpoint({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)})
    with pytest.raises(ValueError, match=r"1 tensors differ, such as net\.\w+"):
        module.on_load_checkpoint({"state_dict": dict(list(module.state_dict().items())[1:]),
                                   "hyper_parameters": dict(module.hparams)})  # fmt: skip


def test_weights_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"weights .*none\.pth does not exist: set weights to"):
        read_weights(tmp_path / "none.pth")
    for content in (b"", b"no torch file at all"):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"weights .*bad\.pth cannot be read by torch .*set weights to"):
            read_weights(tmp_path / "bad.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds list, no state dict"):
        read_weights(tmp_path / "list.pth")
