"""Published checkpoints: names, dead tensors, safe loading."""

import collections
import json

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.lightning_modules.mscmnet.checkpoint import from_official, load_official_checkpoint
from septet.lightning_modules.mscmnet.model import AGWNet, QuadStreamNet


@pytest.mark.parametrize(("name", "network"), [("mscmnet", QuadStreamNet), ("agw", AGWNet)])
def test_every_used_key_is_ours_and_every_dropped_one_is_dead(name, network):
    keys = json.loads(golden("mscmnet", "official_keys.json").read_text())[name]
    assert from_official(dict.fromkeys(keys["dropped"], 0)) == {}
    shapes = from_official(keys["used"])
    with torch.device("meta"):
        own = network(395).state_dict()
    assert {k: list(v.shape) for k, v in own.items()} == shapes


def test_an_unknown_key_is_refused():
    with pytest.raises(ValueError, match=r"'backbone.conv.weight' belongs to neither"):
        from_official({"backbone.conv.weight": 0})
    assert from_official({"module.classifier.weight": 1}) == {"classifier.weight": 1}


def test_numpy_numbers_beside_the_tensors_are_loaded_safely(tmp_path):
    state = {"classifier.weight": torch.ones(2, 2), "local_conv.weight": torch.ones(1)}
    content = {"net": state, "cmc": np.asarray([0.5, 0.75], np.float32), "mAP": np.float64(0.4), "epoch": 3}
    torch.save(content, tmp_path / "official.t")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        torch.load(tmp_path / "official.t", weights_only=True)
    loaded = load_official_checkpoint(tmp_path / "official.t")
    assert list(loaded) == ["classifier.weight"]
    torch.save(state, tmp_path / "bare.t")
    assert list(load_official_checkpoint(tmp_path / "bare.t")) == ["classifier.weight"]


class Strange:
    """A type that a checkpoint has no business holding."""


def test_other_types_and_missing_files_are_refused(tmp_path):
    torch.save({"net": {}, "extra": collections.deque([Strange()])}, tmp_path / "bad.t")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_official_checkpoint(tmp_path / "bad.t")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_official_checkpoint(tmp_path / "none.t")
    torch.save([1, 2], tmp_path / "list.t")
    with pytest.raises(ValueError, match="holds list"):
        load_official_checkpoint(tmp_path / "list.t")
