"""Parameter files of job arrays: one line of further arguments per task."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from septet.launch.errors import UsageError


def check_sweep(options: Namespace, command: Sequence[str]) -> None:
    """A sweep is either a parameter file with a command, or a W&B sweep that has its own.

    Raises:
        UsageError: for a mixture, or for neither.
    """
    if options.wandb is None:
        if options.file is None or not command:
            raise UsageError("nothing to sweep: septet launch sweep FILE -- fit -c ..., or --wandb ENTITY/PROJECT/ID")
    elif options.file is not None or options.only or command:
        raise UsageError("--wandb takes parameters and command from the sweep itself; leave FILE, --only and -- out")
    elif options.count < 1 or options.wandb.count("/") != 2:
        raise UsageError(f"--wandb {options.wandb!r} --count {options.count}: ENTITY/PROJECT/ID and at least one run")


def sweep_lines(options: Namespace) -> list[str]:
    """A sweep's lines of arguments; ``--only`` picks some of them again. Agents need none: empty lines.

    Raises:
        UsageError: no file, no text, no line, the same line twice, or a wrong number in ``--only``.
    """
    if options.wandb:
        return [""] * int(options.count)
    shipped = Path(str(files("septet"))) / options.file
    file = Path(options.file) if Path(options.file).is_file() else shipped
    if not file.is_file():
        raise UsageError(f"no parameter file {options.file!r}: one line of arguments per task")
    try:
        text = file.read_text()
    except UnicodeDecodeError as error:
        raise UsageError(f"{options.file} is no text file: one line of arguments per task") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UsageError(f"{options.file} holds no line")
    twice = next((line for number, line in enumerate(lines) if line in lines[:number]), None)
    if twice is not None:
        raise UsageError(f"{options.file} holds the line {twice!r} twice; both tasks would be the same run")
    return _picked(lines, options.only) if options.only else lines


def _picked(lines: list[str], only: str) -> list[str]:
    numbers = only.split(",")
    if not all(n.isdigit() and int(n) < len(lines) for n in numbers):
        raise UsageError(f"--only {only!r}: numbers from 0 to {len(lines) - 1}, separated by commas")
    return [lines[int(n)] for n in numbers]


def union_of_options(lines: Sequence[str]) -> list[str]:
    """Every option of the lines once, with its first value (configurations all), so that one parse checks the keys.

    >>> union_of_options(["--a=1 --b 2", "--a=3 --c=4"])
    ['--a=1', '--b', '2', '--c=4']

    Raises:
        UsageError: for a line that the shell could not split.
    """
    seen: set[str] = set()
    words: list[str] = []
    for number, line in enumerate(lines):
        try:
            queue = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"line {number} of the sweep, {line!r}: {error}") from error
        while queue:
            option = [queue.pop(0)]
            if "=" not in option[0] and queue and not queue[0].startswith("-"):
                option.append(queue.pop(0))
            key = option[0].partition("=")[0]
            key = " ".join(option) if key in ("-c", "--config") else key
            words += [] if key in seen else option
            seen.add(key)
    return words


def keep_lines(lines: Sequence[str], folder: Path) -> Path:
    """The lines beside the script, where the tasks read them."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "parameters.txt"
    target.write_text("\n".join(lines) + "\n")
    return target
