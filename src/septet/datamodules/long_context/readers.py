"""JSONL readers: RULER, LongBench and a user's own prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from septet.datamodules.long_context.checks import CONFIG_SOURCE, LONGBENCH_SOURCE, RULER_SOURCE, TEXT_SOURCE

NO_CHAT = frozenset({"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"})
"""LongBench sets whose prompts are few-shot or code and take no chat template."""


@dataclass(frozen=True)
class Sample:
    """One prompt to answer.

    Attributes:
        prompt: text before the answer.
        answers: accepted answers.
        task: name of the set ("needle", "niah_multikey_3", "qasper", ...); it chooses the metric.
        depth: place of the needle, NaN if unknown.
        all_classes: classes of a classification set.
        max_new_tokens: generation length that the benchmark prescribes, 0 if none.
        prefix: start of the answer that is given.
        chat: whether a chat template may be applied.
    """

    prompt: str
    answers: tuple[str, ...]
    task: str
    depth: float = float("nan")
    all_classes: tuple[str, ...] = ()
    max_new_tokens: int = 0
    prefix: str = ""
    chat: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def read_jsonl(path: Path, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers.

    Args:
        path: the file.
        source: what to say about a missing file: where to get it.

    Raises:
        ValueError: a missing file (with its source), one that is no text, a malformed row (with file and line).
    """
    for number, line in enumerate(_read_text(path, source).split("\n"), 1):
        if not line.strip():
            continue
        yield number, _object(line, f"{path}, line {number}")


def _object(text: str, where: str) -> dict[str, Any]:
    """A JSON object, or ValueError that says where it was expected."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected an object, found {type(found).__name__}")
    return found


def _read_text(path: Path, source: str) -> str:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"{path} does not exist; {source}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text (byte {error.start}); convert it") from None


def read_haystack(root: str | None) -> str:
    """Natural text for the "text" haystack: ``tinyshakespeare.txt`` in the folder ``root``, or the file ``root``."""
    path = Path(root or "tinyshakespeare.txt")
    file = path / "tinyshakespeare.txt" if path.is_dir() else path
    return _read_text(file, f"haystack 'text' reads tinyshakespeare.txt ({TEXT_SOURCE}); set root")


def _field(row: dict[str, Any], name: str, path: Path, number: int) -> str:
    """A text field."""
    if name not in row:
        raise ValueError(f"{path}, line {number}: the field {name!r} is missing")
    if not isinstance(row[name], str):
        raise ValueError(f"{path}, line {number}: {name!r} must be text, found {type(row[name]).__name__}")
    return str(row[name])


def _answers(row: dict[str, Any], name: str, path: Path, number: int) -> tuple[str, ...]:
    """Expected strings: a string, or a list of at least one string or number."""
    if name not in row:
        raise ValueError(f"{path}, line {number}: the field {name!r} is missing")
    found = [row[name]] if isinstance(row[name], str) else row[name]
    if not isinstance(found, list) or not found or not all(isinstance(a, str | int | float) for a in found):
        raise ValueError(f"{path}, line {number}: {name!r} must be a string or a list of at least one string")
    return tuple(str(answer) for answer in found)


def read_ruler(path: str | Path, limit: int | None = None) -> list[Sample]:
    """RULER's own JSONL (fields input, outputs); the prompt already ends with the start of the answer.

    Raises:
        ValueError: a missing or empty file, a malformed row.
    """
    file = Path(path)
    samples: list[Sample] = []
    for number, row in read_jsonl(file, f"RULER's sets: {RULER_SOURCE}"):
        if limit is not None and len(samples) >= limit:
            break
        text, outputs = _field(row, "input", file, number), _answers(row, "outputs", file, number)
        prompt, _, prefix = text.rpartition("? ")
        depth = _depth(text, outputs[0])
        samples.append(
            Sample(f"{prompt}?", outputs, file.stem, depth, max_new_tokens=64, prefix=prefix)
            if prompt
            else Sample(text, outputs, file.stem, depth, max_new_tokens=64)
        )
    return _some(samples, file)


def _some(samples: list[Sample], file: Path) -> list[Sample]:
    if not samples:
        raise ValueError(f"{file} holds no row; there is nothing to run")
    return samples


def _depth(text: str, answer: str) -> float:
    """Where the answer stands in the prompt, NaN if it does not."""
    found = text.find(answer)
    return found / len(text) if found >= 0 else float("nan")


def read_longbench(path: str | Path, config: str | Path | None = None, limit: int | None = None) -> list[Sample]:
    """A LongBench set (arXiv 2308.14508) with its prompt template and generation length.

    Args:
        path: ``<set>.jsonl``; the name of the set comes from the field "dataset", else from the file.
        config: folder of ``dataset2prompt.json`` and ``dataset2maxlen.json``; default: ``longbench_config`` beside the
            data.
        limit: first rows only.

    Raises:
        ValueError: missing files, malformed rows, a set without a template.
    """
    file = Path(path)
    folder = Path(config) if config is not None else file.parent.parent / "longbench_config"
    templates, lengths = _config(folder / "dataset2prompt.json"), _config(folder / "dataset2maxlen.json")
    samples: list[Sample] = []
    for number, row in read_jsonl(file, f"LongBench sets: {LONGBENCH_SOURCE}"):
        if limit is not None and len(samples) >= limit:
            break
        name = str(row.get("dataset", file.stem)).removesuffix("_e")
        if name not in templates or name not in lengths:
            raise ValueError(f"{file}, line {number}: no prompt template for {name!r}; known: {', '.join(templates)}")
        values = {"context": _field(row, "context", file, number), "input": _field(row, "input", file, number)}
        prompt = templates[name].format(**values)
        answers = _answers(row, "answers", file, number)
        classes = tuple(str(c) for c in row.get("all_classes") or ())
        samples.append(
            Sample(
                prompt, answers, name, all_classes=classes, max_new_tokens=int(lengths[name]), chat=name not in NO_CHAT
            )
        )
    return _some(samples, file)


def _config(path: Path) -> dict[str, Any]:
    return _object(_read_text(path, f"it belongs beside the data as longbench_config/: {CONFIG_SOURCE}"), str(path))


def read_prompts(path: str | Path) -> list[Sample]:
    """A user's own prompts: a ``.jsonl`` with a field "prompt" (or "input") per row, or a text file that is one prompt.

    The fields "answers" or "outputs" may hold what is expected; each row then gets a score.

    Raises:
        ValueError: a missing, empty or binary file, a row without a prompt or with answers that are no text.
    """
    file = Path(path)
    hint = "give a text file or a .jsonl with a field 'prompt'"
    if file.suffix != ".jsonl":
        text = _read_text(file, hint).strip()
        if not text:
            raise ValueError(f"{file} is empty; write a prompt into it")
        return [Sample(text, (), "prompt")]
    samples = []
    for number, row in read_jsonl(file, hint):
        prompt = row.get("prompt", row.get("input"))
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f"{file}, line {number}: the field 'prompt' is missing or no text")
        name = next((name for name in ("answers", "outputs") if row.get(name) not in (None, [])), None)
        samples.append(Sample(prompt, _answers(row, name, file, number) if name else (), "prompt"))
    return _some(samples, file)
