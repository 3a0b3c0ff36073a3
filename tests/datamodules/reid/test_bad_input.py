"""What a user gets wrong: clear errors with the value and the remedy."""

import pytest
from PIL import Image

from septet.datamodules.reid import LLCM, SYSUMM01, RegDB, ReIDQuadrupleStreams, write_synthetic
from septet.datamodules.reid.commands import main


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
