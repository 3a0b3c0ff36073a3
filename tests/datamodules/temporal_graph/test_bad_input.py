"""What no stream may hold, file by file: one line that names it."""

import pickle

import numpy as np
import pytest
import torch

from septet.datamodules.temporal_graph import StructureSpec, TemporalGraphEvents, dyglib_split, read_events
from septet.datamodules.temporal_graph.tgb import list_path, load_lists

ROWS = "user_id,item_id,timestamp,state_label,f\n0,0,1,0,1\n"
IDS, TIME = np.arange(1, 5), np.arange(4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "u,i,ts\n1,2,-inf\n", r"a\.csv, line 2: time of event 0 is -inf"),
        ("a.csv", "u;i;ts\n1;2;3\n", r"a\.csv: columns are separated by ';'"),
        ("a.csv", "u,i,ts\n1,2,3\n".encode("utf-16"), r"a\.csv is not text in UTF-8"),
        ("a.csv", "u,i,ts\n9223372036854775808,2,3\n", r"a\.csv: src holds the id 9223372036854775808"),
        ("a.csv", "u,i,ts\n100000000000000,2,3\n", r"a\.csv: node id 100000000000000 is above .*compact"),
        ("a.csv", "u,i,ts\n", r"a\.csv holds no events"),
        ("a.csv", "user_id,item_id,timestamp\n1,2,3\n", r"a\.csv: 3 columns; jodie has"),
        ("a.csv", f"{ROWS}0,0,2,0,1,1\n", r"a\.csv: line 3: the number of columns changed"),
        ("a.csv.gz", b"hello", r"a\.csv\.gz cannot be read .* Not a gzipped file"),
        ("a.npz", b"hello", r"a\.npz is no \.npz archive"),
    ],
)
def test_files(tmp_path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_events(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"src": IDS + 0.5}, r"a\.npz: src of event 0 is 1\.5: a node id is an integer"),
        ({"src": IDS.astype(str)}, r"a\.npz: src holds <U"),
        ({"src": np.array(["a", 2, 3, 4], dtype=object)}, r"a\.npz: an array cannot be read as numbers"),
        ({"src": IDS[:, None]}, r"a\.npz: src has shape \(4, 1\), expected one dimension"),
        ({"dst": IDS[:2]}, r"a\.npz: unequal lengths: src 4, dst 2"),
        ({"t": TIME.astype("datetime64[s]")}, r"a\.npz: time holds dates"),
        ({"t": np.array([0, 1, 2, np.inf])}, r"a\.npz: time of event 3 is inf"),
        ({"label": np.full(4, "x")}, r"a\.npz: label holds <U1, expected numbers"),
        ({"edge_feat": np.ones(5)}, r"a\.npz: edge_feat has shape \(5,\)"),
        ({"edge_feat": np.full((5, 2), np.inf)}, r"a\.npz: edge_feat row 0 holds infinity"),
        ({"edge_feat": np.full((5, 2), "x")}, r"a\.npz: edge_feat holds <U1, expected numbers"),
    ],
)
def test_archives(tmp_path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **{"src": IDS, "dst": IDS, "t": TIME, **arrays})
    with pytest.raises(ValueError, match=message):
        read_events(tmp_path / "a.npz")


def test_damaged_columns_and_folders(tmp_path) -> None:
    for name in ("src", "dst", "t"):
        np.save(tmp_path / f"{name}.npy", np.arange(1, 100))
    column = tmp_path / "dst.npy"
    whole = column.read_bytes()
    column.write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"dst\.npy: not a whole \.npy file of numbers: mmap length"):
        read_events(tmp_path)
    column.write_bytes(b"")
    with pytest.raises(ValueError, match=r"dst\.npy: .* it is empty"):
        read_events(tmp_path)
    column.write_bytes(pickle.dumps("text"))
    with pytest.raises(ValueError, match=r"dst\.npy: .* no \.npy file, or holds Python objects"):
        read_events(tmp_path)
    with pytest.raises(ValueError, match="is a folder: give the csv file in it"):
        read_events(tmp_path, "csv")
    with pytest.raises(ValueError, match="is a file: npy reads a folder"):
        read_events(column, "npy")


def test_a_byte_order_mark_is_skipped(tmp_path) -> None:
    (tmp_path / "bom.csv").write_text("u,i,ts\n1,2,3\n", encoding="utf-8-sig")
    assert read_events(tmp_path / "bom.csv").dst.tolist() == [2]


def test_equal_times_are_named(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("u,i,ts\n" + "".join(f"{n},{n + 1},7\n" for n in range(1, 60)))
    with pytest.raises(ValueError, match=r"val split is empty .* times too equal"):
        dyglib_split(read_events(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed=-1 is negative"),
        ({"negative_lists": "{split}.pkl"}, "negative_lists belong to protocol 'tgb'"),
        ({"negative_lists": "{x}.pkl", "protocol": "tgb"}, "only {split} may stand in braces"),
        ({"negative_lists": "val.pkl", "protocol": "tgb"}, "names one file for val and test"),
        ({"structure": StructureSpec(granularity="0")}, "granularity 0 is below 1"),
    ],
)
def test_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalGraphEvents(**settings)


def test_granularity_may_be_text() -> None:
    assert StructureSpec(granularity="200") == StructureSpec(granularity=200)


def test_the_cache_needs_a_folder(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cache_dir .*; give a folder of your own"):
            TemporalGraphEvents(cache_dir=str(path)).prepare_data()
    with pytest.raises(ValueError, match="unexpected keyword argument 'edges'"):
        TemporalGraphEvents(source="powerlaw", generator={"edges": 3}).setup()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (np.array([1.5]), r"test\.pkl: the list of the positive .* float64: expected a row of whole ids"),
        (np.array([[1, 2]]), r"shape \(1, 2\)"),
        (np.array([999]), r"holds the id 999: the stream has 0\.\.29"),
        (np.array([-5]), r"holds the id -5"),
        (None, "holds the positive's own destination"),
    ],
)
def test_bad_lists_are_found_before_training(tmp_path, entry: np.ndarray | None, message: str) -> None:
    settings = {"generator": {"num_nodes": 30, "num_events": 400}, "protocol": "tgb", "structure": None}
    plain = TemporalGraphEvents(**settings)
    stream = plain.stream
    ends = list(zip((stream.src - 1).tolist(), (stream.dst - 1).tolist(), stream.time.tolist(), strict=True))
    good = {(u, v, t): np.array([(v + 1) % 30]) for u, v, t in ends}
    (tmp_path / "val.pkl").write_bytes(pickle.dumps(good))
    bad = {**good, ends[-1]: np.array([ends[-1][1]]) if entry is None else entry}
    (tmp_path / "test.pkl").write_bytes(pickle.dumps(bad))
    with pytest.raises(ValueError, match=message):
        TemporalGraphEvents(**settings, negative_lists=str(tmp_path / "{split}.pkl")).setup("fit")


def test_damaged_pickles_name_themselves(tmp_path) -> None:
    for content in (b"hello", b"", pickle.dumps({1: 2})[:5]):
        (tmp_path / "val.pkl").write_bytes(content)
        with pytest.raises(ValueError, match=r"val\.pkl: not a pickle of negative lists"):
            load_lists(list_path(str(tmp_path / "{split}.pkl"), "val"))


def test_a_damaged_cache_is_computed_anew(tmp_path) -> None:
    settings = {"generator": {"num_nodes": 30, "num_events": 400}, "cache_dir": str(tmp_path)}
    want = TemporalGraphEvents(**settings).evaluation_links("val").src_feat.clone()
    damaged = next(tmp_path.glob("*.src.npy"))
    damaged.write_bytes(damaged.read_bytes()[:150])
    with pytest.warns(UserWarning, match=r"src\.npy: not a whole \.npy file .* the features are computed anew"):
        got = TemporalGraphEvents(**settings).evaluation_links("val").src_feat
    assert torch.equal(got, want)
