"""The four streams: the fast path against the readable one, reproducibility, the module's loaders."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.datamodules.reid import ReIDQuadrupleStreams, transforms
from septet.datamodules.reid.transforms import STREAMS, QuadAugmentation, normalise, pad_crop_flip

CONTROLS = ("shuffle_infrared", "shuffle_labels")


def readable(augment, image, stream, epoch, index):
    """The recipe step by step, with whole copies."""
    planes = augment.colour(np.ascontiguousarray(image.transpose(2, 0, 1)), stream, epoch, index)
    planes = torch.from_numpy(np.broadcast_to(planes, (3, *image.shape[:2])).copy())
    cropped = pad_crop_flip(planes, augment.draws(stream, epoch, index))
    normal = normalise(cropped.permute(1, 2, 0).contiguous().numpy()[None])[0]
    return augment.after(normal, stream, epoch, index)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 200), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_one_pass_equals_the_readable_recipe(seed, epoch, index, shared, early):
    """Compiled, numpy and readable form give the same bits."""
    image = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    augment = QuadAugmentation(seed, shared, early)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    for stream in STREAMS:
        expected = readable(augment, image, stream, epoch, index)
        assert torch.equal(augment.stream([image], stream, epoch, [index])[0], expected)
        row = torch.full((3, 48, 32), float("nan"))
        augment._write(row, planes, stream, epoch, index)
        assert torch.equal(row, expected)


def test_without_numba_the_images_are_the_same(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    fast, slow = QuadAugmentation(3), QuadAugmentation(3, compiled=False)
    pair = [a.streams([image] * 8, STREAMS, 1, list(range(8))) for a in (fast, slow)]
    assert all(torch.equal(one, other) for one, other in zip(*pair, strict=True))
    monkeypatch.setattr(transforms, "native_available", lambda: False)
    assert not fast.native


def test_twins_share_the_crop_on_request():
    one, two = QuadAugmentation(0, shared_crop=True), QuadAugmentation(0)
    assert all(one.draws("visible", 0, i) == one.draws("visible_aug", 0, i) for i in range(20))
    assert any(two.draws("visible", 0, i) != two.draws("visible_aug", 0, i) for i in range(20))


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    from septet.datamodules.reid import write_synthetic

    return {k: write_synthetic(tmp_path_factory.mktemp(k), k) for k in ("sysu", "regdb", "llcm")}


def build(root, dataset="sysu", **options):
    defaults = {"image_size": (96, 48), "p": 4, "k": 2, "workers": 0}
    data = ReIDQuadrupleStreams(str(root), dataset, **(defaults | options))
    data.setup("fit")
    return data


def batches(data):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(3)
    return list(loader)


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_the_same_images_whatever_the_workers(generated):
    alone, helped = (batches(build(generated["sysu"], workers=w)) for w in (0, 2))
    assert len(alone) == len(helped)
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_stopped_epoch_goes_on_with_the_same_batches(generated):
    whole = batches(build(generated["sysu"]))
    loader = build(generated["sysu"]).train_dataloader()
    loader.batch_sampler.set_epoch(3)
    loader.load_state_dict({"position": 4})
    rest = list(loader)
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(x, y) for a, b in zip(whole[4:], rest, strict=True) for x, y in zip(a, b, strict=True))


def test_the_controls_shuffle_identities(generated):
    tables = {name: build(generated["sysu"], **{name: True} if name else {})._tables()[1] for name in ("", *CONTROLS)}
    plain, pairs, labels = (tables[name] for name in ("", *CONTROLS))
    assert np.array_equal(plain[0], pairs[0])
    assert not np.array_equal(plain[1], pairs[1])
    assert len({(a, b) for a, b in zip(plain[1], pairs[1], strict=True)}) == len(
        set(plain[1])
    )  # whole identities moved
    for side in (0, 1):
        assert np.array_equal(np.bincount(plain[side]), np.bincount(labels[side]))
        assert len({(a, b) for a, b in zip(plain[side], labels[side], strict=True)}) > len(set(plain[side]))


@pytest.mark.parametrize("dataset", ["sysu", "regdb", "llcm"])
@pytest.mark.parametrize("select_on", ["val", "test"])
def test_three_layouts(generated, dataset, select_on):
    data = build(generated[dataset], dataset, select_on=select_on)
    batch = next(iter(data.train_dataloader()))
    assert batch.visible.shape == (8, 3, 96, 48)
    assert batch.labels.unique().numel() == 4
    assert int(batch.labels.max()) < data.num_classes
    data.setup("test")
    for part, loader in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        evaluation = data.evaluations[part]
        rows = [torch.cat([getattr(b, side).place for b in loader]) for side in ("query", "gallery")]
        assert rows[0].tolist() == list(range(len(evaluation.query)))
        assert rows[1].tolist() == list(range(len(evaluation.pool)))
        if select_on == "val" and part == "val":
            trained = {s.pid for s in data.train_samples[0]}
            assert not trained & {s.pid for s in evaluation.query}
            assert {s.pid for s in evaluation.query} <= {s.pid for s in evaluation.pool}


def test_every_sysu_setting_is_listed_and_the_reported_one_is_first(generated):
    data = build(generated["sysu"], mode="indoor", shots=1)
    data.setup("test")
    assert next(iter(data.evaluations["test"].galleries)) == "indoor_1shot"
    assert set(data.evaluations["test"].galleries) == {"all_1shot", "all_10shot", "indoor_1shot", "indoor_10shot"}
    assert all(len(trials) == 10 for trials in data.evaluations["test"].galleries.values())


def test_the_cache_is_reused_and_a_broken_build_is_taken_up(generated, tmp_path, monkeypatch):
    from septet.datamodules.reid import cache

    data = build(generated["sysu"])
    samples = data.train_samples[0]
    monkeypatch.setattr(cache, "BLOCK", 8)
    seen, genuine = [], cache.resized

    def failing(path, size):
        seen.append(path)
        if len(seen) > 20:
            raise KeyboardInterrupt
        return genuine(path, size)

    monkeypatch.setattr(cache, "resized", failing)
    with pytest.raises(KeyboardInterrupt):
        cache.cached_images(data.root, samples, (96, 48), tmp_path, "x", workers=1)
    seen.clear()
    monkeypatch.setattr(cache, "resized", lambda p, s: (seen.append(p), genuine(p, s))[1])
    table = cache.cached_images(data.root, samples, (96, 48), tmp_path, "x", workers=1)
    assert len(seen) == len(samples) - 16
    np.testing.assert_array_equal(table[5], genuine(data.root / samples[5].path, (96, 48)))
    seen.clear()
    cache.cached_images(data.root, samples, (96, 48), tmp_path, "x", workers=1)
    assert seen == []
    assert not list(tmp_path.glob("*.lock")) + list(tmp_path.glob("*.part*"))


def test_agw_arrays(generated, tmp_path):
    from septet.datamodules.reid.cache import agw_arrays

    images = np.zeros((4, 96, 48, 3), np.uint8)
    np.save(tmp_path / "train_rgb_resized_img.npy", images)
    np.save(tmp_path / "train_rgb_resized_label.npy", np.arange(4))
    found = agw_arrays(tmp_path, "visible", (96, 48))
    assert found is not None
    assert found[1].tolist() == [0, 1, 2, 3]
    assert agw_arrays(tmp_path, "infrared", (96, 48)) is None
    np.save(tmp_path / "train_rgb_resized_img.npy", images[:3])
    with pytest.raises(ValueError, match="4 labels for 3 images"):
        agw_arrays(tmp_path, "visible", (96, 48))
    np.save(tmp_path / "train_rgb_resized_label.npy", np.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"without a gap, \[2\] are missing"):
        agw_arrays(tmp_path, "visible", (96, 48))
    with pytest.raises(ValueError, match="set image_size to match"):
        agw_arrays(tmp_path, "visible", (384, 192))
    (tmp_path / "train_rgb_resized_label.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"train_rgb_resized_label\.npy is missing"):
        agw_arrays(tmp_path, "visible", (96, 48))


def test_cameras_are_balanced_on_request(generated):
    data = build(generated["sysu"], balance_cameras=True)
    sampler = data.train_dataloader().batch_sampler
    visible, infrared = ([s.cam for s in side] for side in data.train_samples)
    for batch in sampler:
        for n in range(0, len(batch), 2):
            assert len({infrared[i] for _, _, _, i in batch[n : n + 2]}) == 2
            assert len({visible[v] for _, _, v, _ in batch[n : n + 2]}) == 2
    with pytest.raises(ValueError, match="needs sampler 'epoch'"):
        build(generated["sysu"], balance_cameras=True, sampler="official")
