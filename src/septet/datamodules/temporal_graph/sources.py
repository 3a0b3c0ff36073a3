"""Published event sets: where they are, and the sums of the forms that the figures here were measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One published set.

    Attributes:
        where: where its publisher offers it.
        file: name of the text file.
        sha256: sum of that file as used here.
        archive_sha256: sum of ``<name>.npz`` as used here, empty where none was used.
        note: what to know before use.
    """

    where: str
    file: str
    sha256: str = ""
    archive_sha256: str = ""
    note: str = ""


SOURCES = {
    "uci": Source(
        "SNAP, CollegeMsg temporal network",
        "CollegeMsg.txt.gz",
        "27f2b7f17a9dcc8e28ffdeb2bbd163b965513659e45f69c09802ecb70e0fca9c",
        "5568fafd07725d38a0eb2e487001a73cf2a40863fffd72d9d0a87ee90b4dd84e",
        "times shifted to 0 (relative_time)",
    ),
    "enron": Source(
        "DGB benchmark, Zenodo record 7213796",
        "ml_enron.csv.gz",
        "52362dbd617122eaa03faf69b5f8032a6b58e6a760e135b4b2b0ee11dd54d815",
        "426580f1d03db039a90c749ab732aee589787659c9f33ffc12a0fabec8bf3301",
        "without the 32 edge features",
    ),
    "wikipedia": Source(
        "JODIE at SNAP, or DGB, Zenodo record 7213796",
        "wikipedia_nofeat.csv.gz",
        "8046749212c5436ae8d477d95d31123667f10b06d2a1312e1648056de9d9c9bb",
        "f1102d4853291ef0f1127b736360aabe7877bbc43b475384ad1353f9b9292a86",
        "without the 172 edge features",
    ),
    "bitcoinotc": Source(
        "SNAP, soc-sign-bitcoin-otc",
        "soc-sign-bitcoinotc.csv.gz",
        "e02b22834db0f0651d8113322c7a6f52c4e9e37a49dd36c5da5d9c74a06f8ab1",
        "0367996e6636115fbca27b0e2c3a8235075dce1cb28fa2c191eef4b24cfa9899",
    ),
    "bitcoinalpha": Source(
        "SNAP, soc-sign-bitcoin-alpha",
        "soc-sign-bitcoinalpha.csv.gz",
        "da7bec1d55fcd8533cf6d6e0a47dced178bde79b84dc2f039ecb0f22b765a89a",
        "b875016c19f7973242c6aaef1676c0f74d3ea14748ad6e9f9449ba00d665b02a",
        "not sorted by time as published",
    ),
    "reddit": Source("JODIE at SNAP, or DGB, Zenodo record 7213796", "reddit.csv", note="no sum recorded here"),
    "mooc": Source("JODIE at SNAP, or DGB, Zenodo record 7213796", "mooc.csv", note="no sum recorded here"),
    "lastfm": Source("JODIE at SNAP, or DGB, Zenodo record 7213796", "lastfm.csv", note="no sum recorded here"),
    "tgbl-wiki": Source("TGB, tgbl-wiki v2", "tgbl-wiki_edgelist_v2.csv", note="no sum recorded here"),
}


def source(name: str) -> Source:
    """A published set by name.

    Raises:
        ValueError: unknown name.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown event set {name!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


def sha256(path: Path) -> str:
    """Sum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sum(path: Path, expected: str) -> None:
    """Raise ValueError with both sums unless the file is the expected one."""
    found = sha256(path)
    if found != expected:
        raise ValueError(f"{path}: sha256 {found}, expected {expected}: fetch the file again or pass your own --sha256")
