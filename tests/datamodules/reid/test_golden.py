"""Sampler, galleries and augmentation against numbers of the published code."""

import json
import random

import numpy as np
import pytest
import torch
from tests.support.paths import golden

from septet.datamodules.reid.readers import LLCM, SYSUMM01
from septet.datamodules.reid.sampler import CrossModalPKBatchSampler
from septet.datamodules.reid.transforms import channel_adaptive_gray, channel_exchange, channel_scale, random_erasing


@pytest.mark.parametrize("case", ["s0", "s1"])
def test_the_official_sampler(case):
    file = np.load(golden("mscmnet", "sampler.npz"))
    p, k, seed = (int(v) for v in file[f"{case}_PK_seed"])
    labels = file[f"{case}_color_label"], file[f"{case}_thermal_label"]
    sampler = CrossModalPKBatchSampler(*labels, p=p, k=k, mode="official", seed=seed)
    for suffix in ("", "_ep1"):
        pairs = np.asarray([pair for batch in sampler for pair in batch])
        np.testing.assert_array_equal(pairs[:, 0], file[f"{case}_index1{suffix}"])
        np.testing.assert_array_equal(pairs[:, 1], file[f"{case}_index2{suffix}"])
    assert len(sampler) * p * k == file[f"{case}_len"][1]
    sampler.set_epoch(1)
    again = np.asarray([pair for batch in sampler for pair in batch])
    np.testing.assert_array_equal(again[:, 0], file[f"{case}_index1_ep1"])


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The toy trees of empty files, under a folder whose name holds 'cam'."""
    from scipy.io import savemat

    root = tmp_path_factory.mktemp("webcam1")
    tree = json.loads(golden("mscmnet", "gallery_tree.json").read_text())
    for name in tree["files"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    sysu = next(p for p in root.iterdir() if p.name.startswith("SYSU"))
    llcm = next(p for p in root.iterdir() if p.name.startswith("LLCM"))
    (sysu / "cam1/0003/Thumbs.db").touch()
    (sysu / "exp").mkdir(exist_ok=True)
    (sysu / "exp/test_id.txt").write_text(",".join(map(str, tree["sysu_ids"])))
    (llcm / "idx").mkdir(exist_ok=True)
    (llcm / "idx/test_id.txt").write_text(",".join(map(str, tree["llcm_ids"])))
    file = np.load(golden("mscmnet", "gallery.npz"))
    cameras = np.empty((6, 1), dtype=object)
    for camera in range(1, 7):
        cells = np.empty((501, 1), dtype=object)
        for pid in range(1, 502):
            key = f"perm_cam{camera}_{pid:04d}"
            cells[pid - 1, 0] = file[key] if key in file.files else np.zeros((0, 0))
        cameras[camera - 1, 0] = cells
    savemat(sysu / "exp/rand_perm_cam.mat", {"rand_perm_cam": cameras})
    return sysu, llcm, file


def equal(samples, file, paths, ids, cams):
    assert [s.path for s in samples] == file[paths].tolist()
    assert [s.pid for s in samples] == file[ids].tolist()
    assert [s.cam for s in samples] == file[cams].tolist()


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_lists(trees, mode):
    data, file = SYSUMM01(trees[0]), trees[2]
    equal(data.query(mode), file, f"sysu_{mode}_query", f"sysu_{mode}_qid", f"sysu_{mode}_qcam")
    for t in range(6):
        names = (f"sysu_{mode}_gall{t}", f"sysu_{mode}_gid{t}", f"sysu_{mode}_gcam{t}")
        equal(data.gallery(mode, t), file, *names)
    for t in (0, 3):
        for shots in (1, 2):
            ours = data.gallery(mode, t, shots=shots, family="permutation")
            assert [s.path for s in ours] == file[f"permutation_{mode}_trial{t}_shots{shots}"].tolist()


@pytest.mark.parametrize(("number", "modality"), [(1, "visible"), (2, "infrared")])
def test_llcm_lists(trees, number, modality):
    data, file = LLCM(trees[1]), trees[2]
    as_query = "visible_to_infrared" if modality == "visible" else "infrared_to_visible"
    as_gallery = "infrared_to_visible" if modality == "visible" else "visible_to_infrared"
    equal(data.query(as_query), file, f"llcm_q{number}", f"llcm_q{number}_id", f"llcm_q{number}_cam")
    for t in range(6):
        names = (f"llcm_m{number}_gall{t}", f"llcm_m{number}_gid{t}", f"llcm_m{number}_gcam{t}")
        equal(data.gallery(as_gallery, t), file, *names)


@pytest.mark.parametrize("seed", range(4))
def test_augmentation(seed):
    file = np.load(golden("mscmnet", "aug.npz"))
    image = torch.from_numpy(file["in"])
    before = image.clone()
    for name, function in {
        "exch2": channel_exchange,
        "exch3": lambda x, r: channel_exchange(x, r, gray=3),
        "adapgray": channel_adaptive_gray,
        "chT": channel_scale,
        "erase": random_erasing,
    }.items():
        ours = function(image, random.Random(seed))
        np.testing.assert_allclose(ours.numpy(), file[f"{name}_{seed}"], atol=2e-6, err_msg=name)
    assert torch.equal(image, before)
