"""Damaged caches, empty lists and sides, and the commands' bad arguments: one line each, before long work."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch

from septet.datamodules.reid import LLCM, SYSUMM01, RegDB, ReIDQuadrupleStreams, write_synthetic
from septet.datamodules.reid import cache as caching
from septet.datamodules.reid.commands import main
from septet.kernels.ranking import SYSU, rank_distances

SIZE = (96, 48)


@pytest.fixture
def sysu(tmp_path):
    return write_synthetic(tmp_path / "sysu", "sysu")


def streams(root, dataset="sysu", **options):
    return ReIDQuadrupleStreams(str(root), dataset, image_size=SIZE, p=4, k=2, workers=0, **options)


def build(root, folder):
    samples = SYSUMM01(root).train("visible")[:20]
    return samples, caching.cached_images(root, samples, SIZE, folder, "x", workers=1)


@pytest.mark.parametrize("damage", ["short", "empty", "shape", "progress"])
def test_a_damaged_part_is_built_from_the_start(sysu, tmp_path, monkeypatch, damage):
    folder, genuine = tmp_path / "cache", caching.resized
    monkeypatch.setattr(caching, "BLOCK", 4)
    calls = []

    def failing(path, size):
        calls.append(path)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return genuine(path, size)

    monkeypatch.setattr(caching, "resized", failing)
    with pytest.raises(KeyboardInterrupt):
        build(sysu, folder)
    part, progress = next(folder.glob("*.part.npy")), next(folder.glob("*.progress.json"))
    if damage == "shape":
        np.save(part, np.zeros((19, *SIZE, 3), np.uint8))
    elif damage == "progress":
        progress.write_text(json.dumps({"done": 400}))
    else:
        part.write_bytes(part.read_bytes()[: 3000 if damage == "short" else 0])
    monkeypatch.setattr(caching, "resized", genuine)
    with pytest.warns(UserWarning, match="is damaged: the cache is built from the start"):
        samples, table = build(sysu, folder)
    np.testing.assert_array_equal(table, np.stack([genuine(sysu / s.path, SIZE) for s in samples]))


@pytest.mark.parametrize("suffix", ["npy", "json"])
@pytest.mark.parametrize("keep", [0, 50])
def test_a_damaged_cache_is_built_anew(sysu, tmp_path, suffix, keep):
    _, table = build(sysu, tmp_path / "cache")
    wanted = np.array(table)
    victim = next((tmp_path / "cache").glob(f"*.{suffix}"))
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.warns(UserWarning, match=rf"\.{suffix} is damaged .* built anew"):
        _, table = build(sysu, tmp_path / "cache")
    np.testing.assert_array_equal(table, wanted)


def test_a_damaged_array_of_the_user_is_named(tmp_path):
    path = tmp_path / "train_rgb_resized_img.npy"
    for content in (b"", b"no array"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train_rgb_resized_img\.npy cannot be read .*delete it"):
            caching.agw_arrays(tmp_path, "visible", SIZE)


def test_a_cache_that_is_a_file_or_cannot_be_made(sysu, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"cache .*file is a file: set cache"):
        streams(sysu, cache=str(tmp_path / "file")).setup("fit")
    data = streams(sysu, cache=str(tmp_path / "file/below"))
    data.setup("fit")
    with pytest.raises(ValueError, match=r"cache .*below cannot be made .*set cache"):
        data.train_dataloader()
    monkeypatch.setenv("SEPTET_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set SEPTET_CACHE or root"):
        ReIDQuadrupleStreams()


@pytest.mark.parametrize(
    ("part", "cameras", "word"),
    [("test", (1, 2, 4, 5), "no gallery images of the test"), ("val", (3, 6), "no query images of the val")],
)
def test_an_empty_side_is_found_in_setup(sysu, part, cameras, word):
    for pid in SYSUMM01(sysu).ids(part):
        for camera in cameras:
            shutil.rmtree(sysu / f"cam{camera}/{pid:04d}", ignore_errors=True)
    with pytest.raises(ValueError, match=word):
        streams(sysu).setup("test" if part == "test" else "fit")


def test_how_many_queries_are_left_out(sysu, caplog):
    data = streams(sysu, mode="indoor")
    with caplog.at_level(logging.INFO):
        data.setup("test")
    evaluation = data.evaluations["test"]
    gallery = [evaluation.pool[n] for n in evaluation.galleries["indoor_1shot"][0]]
    columns = [[getattr(s, f) for s in side] for f in ("pid", "cam") for side in (evaluation.query, gallery)]
    distance = torch.zeros(len(evaluation.query), len(gallery))
    lost = int((rank_distances(distance, *columns, protocol=SYSU).rank < 0).sum())
    assert evaluation.left_out() == lost > 0
    assert f"{lost} of {len(evaluation.query)} queries have no match" in caplog.text


def test_empty_lists(tmp_path, sysu):
    (sysu / "exp/test_id.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test_id\.txt holds no identities"):
        SYSUMM01(sysu)
    root = write_synthetic(tmp_path / "regdb", "regdb")
    (root / "idx/test_visible_1.txt").write_text("")
    with pytest.raises(ValueError, match=r"test_visible_1\.txt holds no identities"):
        RegDB(root, 1)


def test_an_identity_of_one_modality_is_named_as_the_user_knows_it(sysu):
    pid = SYSUMM01(sysu).train_ids[-1]
    for camera in (3, 6):
        (sysu / f"cam{camera}/{pid:04d}").rename(sysu / f"gone-{camera}")
    with pytest.raises(ValueError, match=rf"{pid} has no infrared image .*cam1/{pid:04d}.*set drop_unpaired"):
        streams(sysu).setup("fit")
    streams(sysu, drop_unpaired=True).setup("fit")


def test_predict_refuses_an_unreadable_image_in_setup(sysu, tmp_path):
    (tmp_path / "query").mkdir()
    (tmp_path / "query/broken.jpg").write_bytes(b"no image")
    data = streams(sysu, predict_query=str(tmp_path / "query"), predict_gallery=str(sysu / "cam1"))
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as an image"):
        data.setup("predict")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["generate", "--out", "{root}"], "--out .* is not empty"),
        (["generate", "--out", "{root}/new", "--difficulty", "nan"], "difficulty=nan"),
        (["generate", "--out", "{root}/new", "--difficulty", "-1"], "difficulty=-1"),
        (["generate", "--out", "{root}/new", "--seed", "-1"], "seed=-1"),
        (["prepare", "{root}", "--size", "0", "48"], "--size 0 48: both sides"),
        (["prepare", "{root}", "--workers", "-1"], "--workers -1 is below 1"),
    ],
)
def test_commands_refuse_before_any_work(sysu, argv, word):
    with pytest.raises(ValueError, match=word):
        main(argv[0], [a.format(root=sysu) for a in argv[1:]])
    assert not (sysu / ".septet").exists()
    assert not (sysu / "new").exists()


def test_verify_says_how_many_were_decoded_and_which_cameras_are_absent(tmp_path, capsys):
    root = write_synthetic(tmp_path / "llcm", "llcm")
    assert main("verify", [str(root), "--dataset", "llcm", "--images"]) == 0
    out = capsys.readouterr().out
    assert "all decoded" in out
    assert "warning: test_nir has no folder of camera 3, 6, 7, 8, 9" in out
    (root / LLCM(root).train("visible")[0].path).write_bytes(b"no image")
    assert main("verify", [str(root), "--dataset", "llcm", "--images"]) == 1
    out = capsys.readouterr().out
    assert "all decoded" not in out
    assert " decoded" in out
