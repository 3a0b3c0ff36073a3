"""What a cluster is like and what a job asks for, from YAML files with overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from septet.launch.errors import UsageError, did_you_mean

_TIME = re.compile(r"^((?P<days>\d+)-)?(?P<hours>\d{1,2}):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d)$")
_PLAIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._,@+-]*$")
_MEMORY = re.compile(r"^\d+[KMGT]?$")


@dataclass(frozen=True)
class Cluster:
    """How jobs are asked for on one cluster.

    Attributes:
        name: of the cluster's file.
        partition: "" for the default one.
        account: "" for none.
        qos: "" for none.
        constraint: "" for none.
        gpu_flag: ``--gpus-per-node`` or ``--gres``.
        setup: shell lines before the command (modules, environment).
        container: none, apptainer or pyxis.
        image: of the container.
        mounts: ``host:inside`` pairs of the container.
        python: interpreter that runs septet; "": this one, in a container ``python``.
    """

    name: str = "default"
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    gpu_flag: str = "--gpus-per-node"
    setup: tuple[str, ...] = ()
    container: str = "none"
    image: str = ""
    mounts: tuple[str, ...] = ()
    python: str = ""

    def __post_init__(self) -> None:
        if self.gpu_flag not in ("--gpus-per-node", "--gres"):
            raise UsageError(f"gpu_flag {self.gpu_flag!r}: use '--gpus-per-node' or '--gres'")
        if self.container not in ("none", "apptainer", "pyxis"):
            raise UsageError(
                f"container {self.container!r}{did_you_mean(self.container, ['none', 'apptainer', 'pyxis'])}"
            )
        for name in ("partition", "account", "qos"):
            value = getattr(self, name)
            if value and not _PLAIN.match(value):
                raise UsageError(f"{name} {value!r} is no plain name")
        if self.container != "none" and not self.image:
            raise UsageError(f"container {self.container} needs an image")


@dataclass(frozen=True)
class Resources:
    """What one job asks for.

    Attributes:
        nodes: number of nodes.
        gpus: per node; 0 for a CPU job.
        tasks: processes per node; 0: one per GPU, one without GPUs.
        cpus: per task.
        mem: per node, for example ``32G``; "" for the cluster's default.
        time: limit ``D-HH:MM:SS`` or ``HH:MM:SS``.
        requeue: let the job run again after preemption or the time limit.
        signal: USR1 or USR2, sent before the time limit.
        lead: seconds before the limit.
        max_restarts: requeues at most.
        dependency: SLURM's dependency expression, "" for none.
    """

    nodes: int = 1
    gpus: int = 0
    tasks: int = 0
    cpus: int = 1
    mem: str = ""
    time: str = "0-01:00:00"
    requeue: bool = True
    signal: str = "USR1"
    lead: int = 120
    max_restarts: int = 10
    dependency: str = field(default="")

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("gpus", "tasks", "lead", "max_restarts"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative")
        parts = _TIME.match(self.time)
        if not parts or (parts["days"] and int(parts["hours"]) > 23):
            raise UsageError(f"time {self.time!r}: write D-HH:MM:SS or HH:MM:SS, for example 0-12:00:00")
        if self.mem and not _MEMORY.match(self.mem):
            raise UsageError(f"mem {self.mem!r}: write a number with K, M, G or T, for example 32G")
        if self.signal not in ("USR1", "USR2"):
            raise UsageError(f"signal {self.signal!r}: use USR1 or USR2")
        if self.requeue and self.lead >= self.seconds:
            raise UsageError(f"lead {self.lead} s is no less than the time limit {self.time}; the job could never work")

    @property
    def seconds(self) -> int:
        """The time limit."""
        parts = _TIME.match(self.time)
        assert parts is not None
        days, hours, minutes, seconds = (int(parts[k] or 0) for k in ("days", "hours", "minutes", "seconds"))
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    @property
    def tasks_per_node(self) -> int:
        """Processes per node: one per GPU unless said otherwise."""
        return self.tasks or max(1, self.gpus)


def load_cluster(value: str | None, overrides: Mapping[str, Any] | None = None) -> Cluster:
    """A cluster by file or shipped name, with overrides; None is the default cluster.

    Raises:
        UsageError: for an unknown name or key.
    """
    content = _read(value, "clusters") if value else {}
    if value:
        content.setdefault("name", Path(value).stem)
    _check_keys(Cluster, options := {**content, **(overrides or {})})
    return Cluster(**options)


def load_resources(value: str | None, overrides: Mapping[str, Any] | None = None) -> Resources:
    """Resources by file or shipped name, with overrides; None are the defaults.

    Raises:
        UsageError: for an unknown name or key.
    """
    content = _read(value, "resources") if value else {}
    _check_keys(Resources, options := {**content, **(overrides or {})})
    return Resources(**options)


def _read(value: str, kind: str) -> dict[str, Any]:
    import yaml

    folder = files("septet") / "configs" / kind
    shipped = folder / (value if value.endswith(".yaml") else f"{value}.yaml")
    path = Path(value) if Path(value).is_file() else shipped
    if not path.is_file():
        known = [p.name.removesuffix(".yaml") for p in folder.iterdir()] if folder.is_dir() else []
        raise UsageError(f"no {kind} file {value!r}{did_you_mean(value, known)}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{value} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{value}: expected a mapping of options")
    return content


def _check_keys(kind: type[Any], options: dict[str, Any]) -> None:
    """Name an unknown option or a value of the wrong type; a single text where a list is meant becomes one."""
    known = {f.name: str(f.type) for f in fields(kind)}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{kind.__name__.lower()} has no option {key!r}{did_you_mean(key, known)}")
        options[key] = _typed(key, value, known[key])


def _typed(key: str, value: Any, wanted: str) -> Any:
    if wanted.startswith("tuple"):
        items = [value] if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) for item in items):
            return tuple(items)
        raise UsageError(f"{key} {value!r}: write a list of texts")
    if wanted == "str" and not isinstance(value, str):
        remedy = ", in quotes: YAML reads 1:00:00 as a number" if key == "time" else ", in quotes"
        raise UsageError(f"{key} {value!r}: write a text{remedy}")
    if wanted == "bool" and not isinstance(value, bool):
        raise UsageError(f"{key} {value!r}: write true or false")
    if wanted == "int" and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{key} {value!r}: write a whole number")
    return value
