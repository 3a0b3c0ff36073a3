"""The compiled loop against the readable form, and the readable form against hand-made pixels."""

import builtins
import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septet.kernels.augment import Plan, native, native_available, write_image

TABLES = np.stack([np.arange(256) * scale + 1 for scale in (0.5, 0.25, 0.125)]).astype(np.float32)
FILL = np.array([7, 8, 9], np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (13, 11, 3), dtype=np.uint8)


def written(plan, backend, image=PIXELS):
    return write_image(np.full((3, *image.shape[:2]), np.nan, np.float32), image, plan, backend=backend)


@pytest.mark.skipif(not native_available(), reason="numba is absent")
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["channels", "grey", "one", "sum"]),
    st.integers(0, 2),
    st.tuples(st.integers(-10, 10), st.integers(-10, 10)),
    st.booleans(),
    st.none() | st.tuples(st.integers(0, 6), st.integers(6, 13), st.integers(0, 5), st.integers(5, 11)),
)
def test_native_gives_the_bits_of_the_reference(source, channel, shift, flip, box):
    plan = Plan(TABLES, FILL, source, channel, shift, flip, box)
    np.testing.assert_array_equal(written(plan, "native"), written(plan, "reference"))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_shifted_flipped_image_by_hand(backend):
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)  # rows (0 1 2)(3 4 5) / (6 7 8)(9 10 11)
    out = written(Plan(TABLES, FILL, shift=(1, 1), flip=True), backend, image)
    np.testing.assert_array_equal(out[0], [[1, 9 * 0.5 + 1], [1, 1]])
    np.testing.assert_array_equal(out[2], [[1, 11 * 0.125 + 1], [1, 1]])
    erased = written(Plan(TABLES, FILL, box=(0, 1, 1, 2)), backend, image)
    np.testing.assert_array_equal(erased[:, 0, 1], FILL)
    np.testing.assert_array_equal(erased[:, 1, 1], [5.5, 3.5, 2.375])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_grey_is_the_luma_of_image_libraries(backend):
    from PIL import Image

    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    identity = np.tile(np.arange(256, dtype=np.float32), (3, 1))
    np.testing.assert_array_equal(written(Plan(identity, FILL, "grey"), backend), np.stack([grey] * 3))


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        written(Plan(TABLES, FILL), "gpu")
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        write_image(np.zeros((3, 4, 4), np.float32), PIXELS, Plan(TABLES, FILL))
    genuine = builtins.__import__

    def without(name, *rest):
        if name == "numba":
            raise ImportError(name)
        return genuine(name, *rest)

    monkeypatch.setattr(importlib, "import_module", lambda name: without(name))
    native.available.cache_clear()
    native._loop.cache_clear()
    try:
        assert not native_available()
        with pytest.raises(ImportError, match=r"septet\[reid\]"):
            written(Plan(TABLES, FILL), "native")
        assert np.isfinite(written(Plan(TABLES, FILL), "auto")).all()
    finally:
        monkeypatch.undo()
        native.available.cache_clear()
        native._loop.cache_clear()
