"""What a user gets wrong: clear errors with the value and the remedy."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from septet.datamodules.reid import LLCM, SYSUMM01, RegDB, ReIDQuadrupleStreams, write_synthetic
from septet.datamodules.reid.commands import main
from septet.datamodules.reid.evaluation import sysu_evaluation
from septet.kernels.ranking import SYSU, rank_distances


@pytest.fixture
def sysu(tmp_path):
    return write_synthetic(tmp_path / "sysu", "sysu")


def test_the_generator(tmp_path, sysu):
    with pytest.raises(FileExistsError, match="not empty"):
        write_synthetic(sysu, "sysu")
    with pytest.raises(ValueError, match="unknown layout 'market'"):
        write_synthetic(tmp_path / "x", "market")
    with pytest.raises(ValueError, match="unknown preset"):
        write_synthetic(tmp_path / "x", "sysu", preset="huge")


def test_same_seed_same_bytes(tmp_path, sysu):
    again = write_synthetic(tmp_path / "again", "sysu")
    files = sorted(p.relative_to(sysu) for p in sysu.rglob("*.jpg"))
    assert files == sorted(p.relative_to(again) for p in again.rglob("*.jpg"))
    assert all((sysu / f).read_bytes() == (again / f).read_bytes() for f in files[::7])


def test_missing_folders_and_lists(tmp_path, sysu):
    (sysu / "cam3").rename(sysu / "camera3")
    with pytest.raises(FileNotFoundError, match=r"cam3 is missing; expected layout"):
        SYSUMM01(sysu)
    with pytest.raises(FileNotFoundError, match=r"test_id\.txt"):
        SYSUMM01(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="test_visible_1"):
        RegDB(tmp_path / "nothing", 1)
    with pytest.raises(FileNotFoundError, match=r"test_id\.txt"):
        LLCM(tmp_path / "nothing")


def test_unknown_choices(sysu):
    data = SYSUMM01(sysu)
    for call, word in (
        (lambda: data.query("outdoor"), "mode 'outdoor'"),
        (lambda: data.gallery("all", 10), "trial 10"),
        (lambda: data.gallery(family="random"), "family 'random'"),
        (lambda: data.gallery(shots=0), "shots=0"),
        (lambda: RegDB(sysu, 11), "trial 11"),
        (lambda: ReIDQuadrupleStreams(str(sysu), "market"), "dataset 'market'"),
        (lambda: ReIDQuadrupleStreams(str(sysu), direction="up"), "direction 'up'"),
        (lambda: ReIDQuadrupleStreams(str(sysu), image_size=(100, 48)), "multiples of 16"),
    ):
        with pytest.raises(ValueError, match=word):
            call()


def test_an_unreadable_image_is_named(sysu):
    data = ReIDQuadrupleStreams(str(sysu), image_size=(96, 48), p=4, k=2, workers=0)
    data.setup("fit")
    (sysu / data.train_samples[0][0].path).write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        data.train_dataloader()


def test_a_label_gap_is_closed(sysu):
    """Identities are renumbered by sorted id, so a gap in the ids is no gap in the labels."""
    data = ReIDQuadrupleStreams(str(sysu), image_size=(96, 48), p=4, k=2, workers=0)
    data.setup("fit")
    labels = data._tables()[1][0]
    assert sorted(set(labels.tolist())) == list(range(12))


def test_a_listed_image_is_missing(tmp_path):
    root = write_synthetic(tmp_path / "regdb", "regdb")
    data = ReIDQuadrupleStreams(str(root), "regdb", image_size=(96, 48), p=4, k=2, workers=0)
    data.setup("fit")
    (root / data.train_samples[1][3].path).unlink()
    with pytest.raises(FileNotFoundError, match="a list names it, so the copy is incomplete"):
        data.train_dataloader()


def test_lists_that_cannot_be_read(tmp_path, sysu):
    (sysu / "exp/train_id.txt").write_text("1,two,3")
    with pytest.raises(ValueError, match=r"train_id\.txt should hold integers separated by commas"):
        SYSUMM01(sysu).train("visible")
    root = write_synthetic(tmp_path / "regdb", "regdb")
    path = root / "idx/train_visible_1.txt"
    path.write_text(path.read_text() + "Visible/1/one.bmp\n")
    with pytest.raises(ValueError, match=r"train_visible_1\.txt:\d+: 'Visible/1/one\.bmp' is not 'path label'"):
        RegDB(root, 1).train("visible")


def test_permutations_of_another_copy(sysu):
    from scipy.io import savemat

    drawn = SYSUMM01(sysu).gallery(family="permutation")  # the set's own file, doubles as MATLAB writes them
    assert len(drawn) == len(SYSUMM01(sysu).gallery())
    (sysu / "exp/rand_perm_cam.mat").unlink()
    data = SYSUMM01(sysu)
    with pytest.raises(FileNotFoundError, match=r"rand_perm_cam\.mat is missing"):
        data.gallery(family="permutation")
    cells = np.empty((6, 1), dtype=object)
    for camera in range(6):
        cells[camera, 0] = np.empty((501, 1), dtype=object)
        for pid in range(501):
            cells[camera, 0][pid, 0] = np.ones((10, 99))
    savemat(sysu / "exp/rand_perm_cam.mat", {"rand_perm_cam": cells})
    with pytest.raises(ValueError, match=r"lists 99 images of identity \d+, camera \d; the folder holds"):
        data.gallery(family="permutation")


def test_an_identity_without_gallery_images(sysu, capsys):
    """The rule: such queries are invalid and left out of the averages; verify names them; none valid is an error."""
    lost = SYSUMM01(sysu).test_ids[0]
    for camera in (1, 2, 4, 5):
        shutil.rmtree(sysu / f"cam{camera}/{lost:04d}", ignore_errors=True)
    assert main("verify", [str(sysu)]) == 1
    assert f"1 test identities have no visible image, such as [{lost}]" in capsys.readouterr().out
    evaluation = sysu_evaluation(SYSUMM01(sysu), "test", "all", 1, "seeded", every=False)
    gallery = [evaluation.pool[i] for i in evaluation.galleries["all_1shot"][0]]
    columns = [[getattr(s, f) for s in side] for f in ("pid", "cam") for side in (evaluation.query, gallery)]
    distance = torch.rand(len(evaluation.query), len(gallery), generator=torch.Generator().manual_seed(0))
    result = rank_distances(distance, *columns, protocol=SYSU)
    assert {s.pid for s, rank in zip(evaluation.query, result.rank.tolist(), strict=True) if rank < 0} == {lost}
    own = [n for n, s in enumerate(evaluation.query) if s.pid == lost]
    with pytest.raises(ValueError, match="has a match"):
        rank_distances(distance[own], *([c[n] for n in own] if len(c) > len(gallery) else c for c in columns),
                       protocol=SYSU)  # fmt: skip


def test_label_gaps_of_lists_are_reported_and_closed(tmp_path, capsys):
    root = write_synthetic(tmp_path / "regdb", "regdb")
    for modality in ("visible", "thermal"):
        path = root / f"idx/train_{modality}_1.txt"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.endswith(" 2\n")))
    assert main("verify", [str(root), "--dataset", "regdb"]) == 1
    assert "trial 1 train labels have gaps, such as [2]" in capsys.readouterr().out
    data = ReIDQuadrupleStreams(str(root), "regdb", image_size=(96, 48), p=4, k=2, workers=0)
    data.setup("fit")
    assert 2 not in {s.pid for s in data.train_samples[0]}
    assert sorted(set(data._tables()[1][0].tolist())) == list(range(data.num_classes))


def test_folders_to_search(tmp_path, sysu):
    def loader(**folders):
        data = ReIDQuadrupleStreams(str(sysu), image_size=(96, 48), workers=0, **folders)
        data.setup("predict")
        return data.predict_dataloader()

    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="both predict_query and predict_gallery"):
        loader(predict_query=str(sysu / "cam3"))
    with pytest.raises(FileNotFoundError, match="nowhere is missing; expected a folder of images"):
        loader(predict_query=str(tmp_path / "nowhere"), predict_gallery=str(sysu / "cam1"))
    with pytest.raises(ValueError, match="empty holds no images"):
        loader(predict_query=str(tmp_path / "empty"), predict_gallery=str(sysu / "cam1"))
    (tmp_path / "empty/broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg.* cannot be read as an image"):
        next(iter(loader(predict_query=str(tmp_path / "empty"), predict_gallery=str(sysu / "cam1"))))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"p": 0}, "p=0 is below 2"),
        ({"p": 1}, "p=1 is below 2: the metric losses"),
        ({"seed": -1}, "seed=-1 is below 0"),
        ({"workers": -1}, "workers=-1 is below 0"),
        ({"generator": {"sed": 1}}, r"unknown generator\.sed: choose among"),
        ({"generator": {"difficulty": float("nan")}}, r"generator\.difficulty=nan"),
        ({"generator": {"seed": -3}}, r"generator\.seed=-3"),
        ({"predict_query": "x"}, "both predict_query and predict_gallery"),
        ({"generator": {"preset": "huge"}}, r"unknown generator\.preset 'huge'"),
        ({"select_on": "train"}, "unknown select_on 'train'"),
        ({"sampler": "random"}, "unknown sampler 'random'"),
        ({"trial": 11}, "unknown trial 11"),
    ],
)
def test_settings_that_cannot_work(options, word):
    with pytest.raises(ValueError, match=word):
        ReIDQuadrupleStreams(None, **options)


def test_verify_reports(sysu, capsys):
    assert main("verify", [str(sysu), "--images"]) == 0
    assert "0 problems" in capsys.readouterr().out
    person = SYSUMM01(sysu).train_ids[0]
    (sysu / f"cam1/{person:04d}/0001.jpg").write_bytes(b"no image")
    (sysu / "exp/test_id.txt").write_text((sysu / "exp/test_id.txt").read_text().strip() + f",{person}")
    assert main("verify", [str(sysu), "--images"]) == 1
    out = capsys.readouterr().out
    assert "1 identities are in train and test" in out
    assert "cannot be read" in out


@pytest.mark.parametrize("layout", ["regdb", "llcm"])
def test_verify_of_the_other_layouts(tmp_path, layout, capsys):
    assert main("generate", ["--out", str(tmp_path / layout), "--layout", layout]) == 0
    assert main("verify", [str(tmp_path / layout), "--dataset", layout, "--images"]) == 0
    victim = next((tmp_path / layout).glob("Visible/1/*.bmp" if layout == "regdb" else "vis/0001/*.jpg"))
    victim.unlink()
    assert main("verify", [str(tmp_path / layout), "--dataset", layout]) == 1
    assert "missing" in capsys.readouterr().out


def test_prepare_and_fetch(sysu, capsys):
    assert main("prepare", [str(sysu), "--size", "96", "48"]) == 0
    assert main("fetch", ["sysu"]) == 0
    assert "may not be redistributed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="unknown action"):
        main("sell", [])


def test_exif_and_grey_images_become_rgb(sysu):
    from septet.datamodules.reid.synthetic import image_array

    path = sysu / "grey.png"
    Image.new("L", (48, 96), 7).save(path)
    assert image_array(path).shape == (96, 48, 3)
