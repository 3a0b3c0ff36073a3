"""EdgeBank equals the published predictions on UCI, bit for bit."""

import numpy as np
import pytest
import torch
from tests.support.paths import golden, shared_data

from septet.datamodules.temporal_graph import dyglib_split, read_events
from septet.lightning_modules.cne_n.baselines.edgebank import MODES, EdgeBank
from septet.lightning_modules.cne_n.metrics import BatchMeanAUROC, BatchMeanAveragePrecision


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strategy", ["random", "historical", "inductive"])
def test_uci(mode: str, strategy: str) -> None:
    stream = read_events(shared_data("temporal_graph/uci.npz"))
    splits = dyglib_split(stream)
    want = np.load(golden("cne_n", "edgebank_uci.npz"))
    drawn = np.load(golden("cne_n", "protocol_uci.npz"))
    number = int(want[f"{strategy}/{mode}/n"])
    at = splits.test[:number]
    src, dst, time = stream.src[at], stream.dst[at], stream.time[at]
    neg_src = src if strategy == "random" else torch.from_numpy(drawn[f"test_{strategy}_neg_src"]).long()
    neg_dst = torch.from_numpy(drawn[f"test_{strategy}_neg_dst"]).long()
    bank, ap, auc = EdgeBank(mode), BatchMeanAveragePrecision(), BatchMeanAUROC()
    for part in (splits.train, splits.val):
        bank.update(stream.src[part], stream.dst[part], stream.time[part])
    scores = {"pos": [], "neg": []}
    for a in range(0, number, 200):
        batch = slice(a, a + 200)
        scores["pos"].append(bank.predict(src[batch], dst[batch]))
        scores["neg"].append(bank.predict(neg_src[batch], neg_dst[batch]))
        both = torch.cat([scores["pos"][-1], scores["neg"][-1]])
        target = torch.cat([torch.ones(len(both) // 2), torch.zeros(len(both) // 2)])
        ap.update(both, target), auc.update(both, target)
        bank.update(src[batch], dst[batch], time[batch])
    for sign, parts in scores.items():
        bits = np.packbits(torch.cat(parts).numpy().astype(np.uint8))
        assert np.array_equal(bits, want[f"{strategy}/{mode}/{sign}"]), sign
    assert ap.compute().item() == pytest.approx(float(want[f"{strategy}/{mode}/ap"]), abs=1e-6)
    assert auc.compute().item() == pytest.approx(float(want[f"{strategy}/{mode}/auc"]), abs=1e-6)


def test_empty_bank_and_bad_settings() -> None:
    one = torch.tensor([1])
    assert EdgeBank("repeat_threshold").predict(one, one).tolist() == [0.0]
    with pytest.raises(ValueError, match="unknown EdgeBank mode 'all'"):
        EdgeBank("all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"window_ratio=0\.0"):
        EdgeBank(window_ratio=0.0)
    with pytest.raises(ValueError, match="above 2\\^31"):
        EdgeBank().update(one + 2**31, one, one)
