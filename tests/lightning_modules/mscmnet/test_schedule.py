"""Schedule and parameter groups."""

import numpy as np
import pytest
from tests.support.paths import golden

from septet.lightning_modules.mscmnet import MSCMNet
from septet.lightning_modules.mscmnet.schedule import warmup_multistep


def test_the_published_rates():
    file = np.load(golden("mscmnet", "lr.npz"))["lr"]
    ours = [[0.1 * g * warmup_multistep(e) for g in (0.1, 1.0, 1.0)] for e in range(150)]
    np.testing.assert_allclose(ours, file, atol=1e-9)


def test_warm_up_wins_over_milestones():
    assert warmup_multistep(5, milestones=(3,)) == pytest.approx(0.55)


def test_three_groups_hold_every_trainable_parameter_once():
    module = MSCMNet(12, (96, 48), trunk="micro")
    module.configure_model()
    optimizer = module.configure_optimizers()["optimizer"]
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in module.net.parameters() if p.requires_grad)
    assert [g["initial_lr"] for g in optimizer.param_groups] == pytest.approx([0.01, 0.1, 0.1])
