"""The three native layouts: SYSU-MM01, RegDB, LLCM. Listing never opens an image."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
Modality = Literal["visible", "infrared"]
Direction = Literal["infrared_to_visible", "visible_to_infrared"]
DIRECTIONS = ("infrared_to_visible", "visible_to_infrared")
_CAMERA = re.compile(r"cam(\d+)")


class Sample(NamedTuple):
    """One image: posix path relative to the root, identity, camera, modality."""

    path: str
    pid: int
    cam: int
    modality: str


def image_files(folder: Path) -> list[str]:
    """Sorted names of the images of a folder; hidden files and other suffixes would shift every later draw."""
    names = (p.name for p in folder.iterdir()) if folder.is_dir() else iter(())
    return sorted(n for n in names if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES)


def _need(path: Path, layout: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; expected layout: {layout}")
    return path


def _choose(value: Any, allowed: Sequence[Any], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, allowed))}")


def _read_ids(path: Path, layout: str) -> list[int]:
    text = _need(path, layout).read_text()
    try:
        found = sorted({int(w) for w in text.replace("\n", ",").split(",") if w.strip()})
    except ValueError as error:
        raise ValueError(f"{path} should hold integers separated by commas: {error}") from error
    if not found:
        raise ValueError(f"{path} holds no identities: put back the data set's own list")
    return found


def _draw(rng: random.Random, files: list[str], shots: int) -> list[str]:
    """One image by ``choice`` as released, more by ``sample``."""
    return [rng.choice(files)] if shots == 1 else rng.sample(files, min(shots, len(files)))


class SYSUMM01:
    """SYSU-MM01: ``camC/IIII/NNNN.jpg`` and ``exp/{train,val,test}_id.txt``.

    Args:
        root: the folder that holds ``cam1`` .. ``cam6`` and ``exp``.

    Raises:
        FileNotFoundError: the test list or a camera folder is missing.
    """

    visible, infrared, indoor = (1, 2, 4, 5), (3, 6), (1, 2)
    layout = "ROOT/cam1..cam6/0001/0001.jpg, ROOT/exp/{train,val,test}_id.txt"

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.test_ids = _read_ids(self.root / "exp/test_id.txt", self.layout)
        for camera in (*self.visible, *self.infrared):
            _need(self.root / f"cam{camera}", self.layout)
        self._permutations: Any = None

    @property
    def train_ids(self) -> list[int]:
        """The 296 training identities."""
        return _read_ids(self.root / "exp/train_id.txt", self.layout)

    @property
    def val_ids(self) -> list[int]:
        """The 99 validation identities."""
        return _read_ids(self.root / "exp/val_id.txt", self.layout)

    def ids(self, part: str) -> list[int]:
        """Identities of ``train``, ``val``, ``trainval`` or ``test``."""
        _choose(part, ("train", "val", "trainval", "test"), "part")
        if part == "trainval":
            return sorted({*self.train_ids, *self.val_ids})
        return {"train": lambda: self.train_ids, "val": lambda: self.val_ids, "test": lambda: self.test_ids}[part]()

    def _folder(self, pid: int, camera: int) -> list[Sample]:
        modality = "infrared" if camera in self.infrared else "visible"
        folder = f"cam{camera}/{pid:04d}"
        return [Sample(f"{folder}/{n}", pid, camera, modality) for n in image_files(self.root / folder)]

    def train(self, modality: Modality, part: str = "trainval") -> list[Sample]:
        """All images of one modality of the training identities, by identity, camera, file."""
        _choose(modality, ("visible", "infrared"), "modality")
        cameras = self.visible if modality == "visible" else self.infrared
        return [s for pid in self.ids(part) for c in cameras for s in self._folder(pid, c)]

    def query(self, mode: str = "all", part: str = "test") -> list[Sample]:
        """All infrared images of the test identities, the same in both modes."""
        _choose(mode, ("all", "indoor"), "mode")
        return [s for pid in self.ids(part) for c in self.infrared for s in self._folder(pid, c)]

    def pool(self, mode: str = "all", part: str = "test") -> list[Sample]:
        """All visible images from which galleries are drawn."""
        _choose(mode, ("all", "indoor"), "mode")
        cameras = self.visible if mode == "all" else self.indoor
        return [s for pid in self.ids(part) for c in cameras for s in self._folder(pid, c)]

    def gallery(
        self, mode: str = "all", trial: int = 0, *, shots: int = 1, family: str = "seeded", part: str = "test"
    ) -> list[Sample]:
        """The gallery of a trial.

        Args:
            mode: ``all`` (cameras 1, 2, 4, 5) or ``indoor`` (1, 2).
            trial: 0..9.
            shots: images per identity and camera.
            family: ``seeded`` (Random(trial), as AGW, CAJ, DEEN, MSCMNet) or ``permutation`` (the official MATLAB
                permutations of ``exp/rand_perm_cam.mat``).
            part: identities.

        Raises:
            ValueError: unknown mode, trial, family; ``shots`` below 1.
        """
        _choose(mode, ("all", "indoor"), "mode")
        _choose(family, ("seeded", "permutation"), "family")
        _choose(trial, range(10), "trial")
        if shots < 1:
            raise ValueError(f"shots={shots} is below 1")
        rng = random.Random(trial)
        cameras = self.visible if mode == "all" else self.indoor
        chosen = []
        for pid in self.ids(part):
            for camera in cameras:
                files = {Path(s.path).name: s for s in self._folder(pid, camera)}
                if not files:
                    continue
                names = sorted(files)
                if family == "seeded":
                    picked = _draw(rng, names, shots)
                else:
                    order = self._permutation(camera, pid)[trial]
                    if len(order) != len(names):
                        raise ValueError(
                            f"rand_perm_cam.mat lists {len(order)} images of identity {pid}, camera {camera}; the "
                            f"folder holds {len(names)}: use the untouched data set"
                        )
                    picked = [names[int(i) - 1] for i in order[:shots]]
                chosen += [files[n] for n in picked]
        return chosen

    def _permutation(self, camera: int, pid: int) -> Any:
        """1-based permutations ``(10, n)`` of one identity and camera."""
        if self._permutations is None:
            from scipy.io import loadmat

            path = _need(self.root / "exp/rand_perm_cam.mat", self.layout)
            self._permutations = loadmat(path)["rand_perm_cam"]
        return self._permutations[camera - 1, 0][pid - 1, 0]

    def verify(self) -> list[str]:
        """Problems of the copy, one line each; empty if none."""
        from septet.datamodules.reid.integrity import verify_sysu

        return verify_sysu(self)


class RegDB:
    """RegDB: ``Visible/ID/name.bmp``, ``Thermal/ID/name.bmp``, ``idx/{train,test}_{visible,thermal}_{1..10}.txt``.

    Args:
        root: the folder that holds ``Visible``, ``Thermal`` and ``idx``.
        trial: 1..10; both training and test halves depend on it.

    Raises:
        ValueError: unknown trial. FileNotFoundError: the trial's test lists are missing.
    """

    layout = "ROOT/{Visible,Thermal}/1..412/*.bmp, ROOT/idx/{train,test}_{visible,thermal}_{1..10}.txt"

    def __init__(self, root: str | Path, trial: int) -> None:
        _choose(trial, range(1, 11), "trial")
        self.root, self.trial = Path(root), trial
        self._test = {m: self._list("test", m) for m in ("visible", "infrared")}
        self.test_ids = sorted({s.pid for s in self._test["visible"]})

    def _list(self, part: str, modality: str) -> list[Sample]:
        name = "visible" if modality == "visible" else "thermal"
        path = _need(self.root / f"idx/{part}_{name}_{self.trial}.txt", self.layout)
        return [Sample(file, label, 1 if modality == "visible" else 2, modality) for file, label in _read_list(path)]

    def train(self, modality: Modality) -> list[Sample]:
        """Training images of one modality, labels as in the list."""
        _choose(modality, ("visible", "infrared"), "modality")
        return self._list("train", modality)

    def query(self, direction: Direction) -> list[Sample]:
        """Test images of the query's modality."""
        _choose(direction, DIRECTIONS, "direction")
        return self._test["infrared" if direction == "infrared_to_visible" else "visible"]

    def gallery(self, direction: Direction) -> list[Sample]:
        """Test images of the other modality."""
        _choose(direction, DIRECTIONS, "direction")
        return self._test["visible" if direction == "infrared_to_visible" else "infrared"]


class LLCM:
    """LLCM: ``idx/train_{vis,nir}.txt``, ``test_{vis,nir}/camC/IIII/*``, ``idx/test_id.txt``.

    Args:
        root: the folder that holds ``idx``, ``test_vis`` and ``test_nir``.

    Raises:
        FileNotFoundError: the test list or a test folder is missing.
    """

    cameras = tuple(range(1, 10))
    layout = "ROOT/test_{vis,nir}/cam1..cam9/0001/*.jpg, ROOT/idx/{train_vis,train_nir,test_id}.txt"

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.test_ids = _read_ids(self.root / "idx/test_id.txt", self.layout)
        for name in ("test_vis", "test_nir"):
            _need(self.root / name, self.layout)

    def train(self, modality: Modality) -> list[Sample]:
        """Training images of one modality; the camera comes from the path or the name (``_cNN_``), else 0."""
        _choose(modality, ("visible", "infrared"), "modality")
        path = self.root / f"idx/train_{'vis' if modality == 'visible' else 'nir'}.txt"
        rows = _read_list(_need(path, self.layout))
        return [Sample(file, label, _camera(file), modality) for file, label in rows]

    def _test(self, modality: str) -> list[tuple[int, int, list[Sample]]]:
        """Images per (identity, camera) that has any."""
        folder = "test_vis" if modality == "visible" else "test_nir"
        cells = []
        for pid in self.test_ids:
            for camera in self.cameras:
                place = f"{folder}/cam{camera}/{pid:04d}"
                names = image_files(self.root / place)
                if names:
                    cells.append((pid, camera, [Sample(f"{place}/{n}", pid, camera, modality) for n in names]))
        return cells

    def query(self, direction: Direction) -> list[Sample]:
        """All test images of the query's modality."""
        _choose(direction, DIRECTIONS, "direction")
        cells = self._test("infrared" if direction == "infrared_to_visible" else "visible")
        return [s for _, _, samples in cells for s in samples]

    def pool(self, direction: Direction) -> list[Sample]:
        """All test images of the gallery's modality."""
        _choose(direction, DIRECTIONS, "direction")
        cells = self._test("visible" if direction == "infrared_to_visible" else "infrared")
        return [s for _, _, samples in cells for s in samples]

    def gallery(self, direction: Direction, trial: int = 0) -> list[Sample]:
        """One image per identity and camera, drawn by Random(trial)."""
        _choose(direction, DIRECTIONS, "direction")
        _choose(trial, range(10), "trial")
        rng = random.Random(trial)
        cells = self._test("visible" if direction == "infrared_to_visible" else "infrared")
        return [rng.choice(samples) for _, _, samples in cells]


def _read_list(path: Path) -> list[tuple[str, int]]:
    """Lines ``path label``."""
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        file, _, label = line.strip().rpartition(" ")
        if not file or not label.lstrip("-").isdigit():
            raise ValueError(f"{path}:{number}: {line!r} is not 'path label'")
        rows.append((PurePosixPath(file.replace("\\", "/")).as_posix(), int(label)))
    if not rows:
        raise ValueError(f"{path} holds no identities: put back the data set's own list")
    return rows


def _camera(path: str) -> int:
    """Camera of an LLCM path, from a part ``camC`` or ``_cNN_`` in the name; 0 if unknown."""
    for part in PurePosixPath(path).parts[:-1]:
        if found := _CAMERA.fullmatch(part):
            return int(found[1])
    found = re.search(r"_c(\d+)_", PurePosixPath(path).name)
    return int(found[1]) if found else 0
