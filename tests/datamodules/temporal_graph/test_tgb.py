"""TGB's fixed negatives: the rule, the files, and what a file may not hold."""

import os
import pickle

import numpy as np
import pytest
import torch

from septet.datamodules.temporal_graph import TemporalGraphEvents, synthetic_events, tgb_split
from septet.datamodules.temporal_graph.tgb import hist_rnd_lists, listed_negatives, load_lists

GENERATOR = {"num_nodes": 60, "num_events": 600}


def test_hist_rnd_keeps_its_rule() -> None:
    stream = synthetic_events(**GENERATOR)
    splits = tgb_split(stream)
    lists = hist_rnd_lists(stream, splits, "test", 20)
    train = set(zip(stream.src[splits.train].tolist(), stream.dst[splits.train].tolist(), strict=True))
    at = splits.test
    positives = set(zip(stream.src[at].tolist(), stream.dst[at].tolist(), stream.time[at].tolist(), strict=True))
    for (u, _, t), negatives in lists.items():
        assert len(set(negatives.tolist())) == 20
        assert sum((u, n) in train for n in negatives.tolist()) <= 10
        assert not any((u, n, t) in positives for n in negatives.tolist())
    with pytest.raises(ValueError, match="lower num_negatives"):
        hist_rnd_lists(stream, splits, "test", 60)


def test_data_module_serves_lists(tmp_path) -> None:
    drawn = TemporalGraphEvents(generator=GENERATOR, protocol="tgb", num_negatives=20, batch_size=50)
    drawn.setup()
    links = drawn.evaluation_links("val")
    assert links.pair_dst.shape[1] == 21
    for split in ("val", "test"):
        lists = hist_rnd_lists(drawn.stream, drawn.splits, split, 20, {"val": 0, "test": 2}[split])
        zero_based = {(u - 1, v - 1, t): n - 1 for (u, v, t), n in lists.items()}
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps(zero_based))
    read = TemporalGraphEvents(
        generator=GENERATOR, protocol="tgb", batch_size=50, negative_lists=str(tmp_path / "{split}.pkl")
    )
    read.setup()
    assert torch.equal(read.evaluation_links("val").pair_dst, links.pair_dst)
    assert torch.equal(read.evaluation_links("test").src_feat, drawn.evaluation_links("test").src_feat)


def test_lists_of_other_positives_or_of_code_are_refused(tmp_path) -> None:
    one = torch.tensor([1])
    with pytest.raises(ValueError, match=r"no negatives are listed for the positive \(0, 1, 5\)"):
        listed_negatives({(0, 0, 5): np.array([1])}, one, one + 1, one + 4)
    with pytest.raises(ValueError, match="is empty"):
        listed_negatives({(0, 1, 5): np.array([])}, one, one + 1, one + 4)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({(0, 1, 2): os.getcwd}))
    with pytest.raises(ValueError, match="do not load this file"):
        load_lists(tmp_path / "evil.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match="expected a mapping"):
        load_lists(tmp_path / "list.pkl")
    with pytest.raises(FileNotFoundError, match="no negative list"):
        load_lists(tmp_path / "absent.pkl")
