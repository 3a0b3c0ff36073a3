"""Evaluators and re-ranking against numbers of the published code."""

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.kernels.ranking import LLCM, LLCM_STRICT, REGDB, SYSU, rank_distances, rank_features, rerank
from septet.kernels.ranking.reference import rank_distances as readable

PROTOCOL = {"sysu": SYSU, "regdb": REGDB, "llcm": LLCM, "llcmstrict": LLCM_STRICT}
CASES = [
    "sysu_small", "sysu_missing", "sysu_few_ids", "sysu_tiny_gallery", "sysu_ragged", "regdb_small", "regdb_missing",
    "llcm_small", "llcm_wipe", "llcmstrict_small",
]  # fmt: skip


def arrays(file, case):
    source = case.replace("llcmstrict", "llcm")
    names = ("dist", "qpid", "gpid", "qcam", "gcam")
    return [torch.from_numpy(file[f"{source}_{n}"]) for n in names]


def check(result, file, case):
    cmc = file[f"{case}_cmc"]
    padded = np.concatenate([cmc, np.full(20 - len(cmc), cmc[-1])])
    np.testing.assert_allclose(result.cmc.numpy(), padded, atol=1e-6)
    assert result.mAP == pytest.approx(float(file[f"{case}_mAP"]), abs=1e-6)
    assert result.mINP == pytest.approx(float(file[f"{case}_mINP"]), abs=1e-6)
    if f"{case}_rank" in file.files:
        np.testing.assert_array_equal(result.rank.numpy(), file[f"{case}_rank"])
        np.testing.assert_allclose(result.ap.numpy(), file[f"{case}_ap"], atol=1e-6)
        np.testing.assert_allclose(result.inp.numpy(), file[f"{case}_inp"], atol=1e-6)


@pytest.mark.parametrize("evaluate", [rank_distances, readable])
@pytest.mark.parametrize("case", CASES)
def test_evaluators(case, evaluate):
    file = np.load(golden("mscmnet", "eval.npz"))
    result = evaluate(*arrays(file, case), protocol=PROTOCOL[case.split("_")[0]])
    check(result, file, case)


@pytest.mark.parametrize("evaluate", [rank_distances, readable])
@pytest.mark.parametrize("ties", ["stable", "optimistic", "pessimistic"])
def test_ties(ties, evaluate):
    file = np.load(golden("mscmnet", "eval.npz"))
    check(evaluate(*arrays(file, "sysu_ties"), protocol=SYSU, ties=ties), file, f"sysu_ties_{ties}")


def sysu_features(pid, modality, seed):
    proto = np.random.default_rng(999).standard_normal((600, 128))
    shift = 0.5 * np.random.default_rng(1000 + modality).standard_normal(128)
    f = proto[pid] + shift + 1.6 * np.random.default_rng(seed).standard_normal((len(pid), 128))
    return torch.from_numpy((f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float32))


@pytest.mark.parametrize("mode", ["all", "indoor"])
@pytest.mark.parametrize("shots", [1, 10, 9999])
def test_sysu_at_full_size(mode, shots):
    file = np.load(golden("mscmnet", "eval_sysu_size.npz"))
    pid, cam = file["gall_pid_all"], file["gall_cam_all"]
    index = []
    for identity in file["test_id"]:
        for camera in (1, 2, 4, 5) if mode == "all" else (1, 2):
            index += np.flatnonzero((pid == identity) & (cam == camera))[:shots].tolist()
    query = sysu_features(file["query_pid"], 1, 21)
    gallery = sysu_features(pid, 0, 22)[index]
    result = rank_features(
        query, gallery, file["query_pid"], pid[index], file["query_cam"], cam[index], protocol=SYSU, chunk=512
    )
    case = f"{mode}_{shots}shot"
    np.testing.assert_allclose(result.cmc.numpy(), file[f"{case}_cmc"], atol=3e-4)
    assert result.mAP == pytest.approx(float(file[f"{case}_mAP"]), abs=1e-6)
    assert result.mINP == pytest.approx(float(file[f"{case}_mINP"]), abs=1e-6)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_rerank(case):
    file = np.load(golden("mscmnet", "rerank.npz"))
    k1, k2 = (int(v) for v in file[f"{case}_k1k2"])
    ours = rerank(file[f"{case}_q"], file[f"{case}_g"], k1=k1, k2=k2, weight=float(file[f"{case}_lambda"]))
    np.testing.assert_allclose(ours.numpy(), file[f"{case}_dist"], atol=2e-5)
