"""JSONL readers: RULER, LongBench and a user's own prompts."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their line numbers.

    Raises:
        ValueError: a missing file (with where to get it), or a malformed row (with file and line).
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; its source is named in ORIGIN.md of the long-context data")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
            yield number, row


def _field(row: dict[str, Any], name: str, path: Path, number: int) -> Any:
    if name not in row:
        raise ValueError(f"{path}, line {number}: the field {name!r} is missing")
    return row[name]


def read_ruler(path: str | Path, limit: int | None = None) -> list[Sample]:
    """RULER's own JSONL (fields input, outputs); the prompt already ends with the start of the answer."""
    file = Path(path)
    samples: list[Sample] = []
    for number, row in read_jsonl(file):
        if limit is not None and len(samples) >= limit:
            break
        text, outputs = _field(row, "input", file, number), _field(row, "outputs", file, number)
        if not isinstance(outputs, list) or not outputs:
            raise ValueError(f"{file}, line {number}: 'outputs' must be a list of at least one string")
        prompt, _, prefix = text.rpartition("? ")
        depth = _depth(text, str(outputs[0]))
        samples.append(
            Sample(f"{prompt}?", tuple(str(o) for o in outputs), file.stem, depth, max_new_tokens=64, prefix=prefix)
            if prompt
            else Sample(text, tuple(str(o) for o in outputs), file.stem, depth, max_new_tokens=64)
        )
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
    for number, row in read_jsonl(file):
        if limit is not None and len(samples) >= limit:
            break
        name = str(row.get("dataset", file.stem)).removesuffix("_e")
        if name not in templates:
            raise ValueError(f"{file}, line {number}: no prompt template for {name!r}; known: {', '.join(templates)}")
        values = {"context": _field(row, "context", file, number), "input": _field(row, "input", file, number)}
        prompt = templates[name].format(**values)
        answers = tuple(str(a) for a in _field(row, "answers", file, number))
        classes = tuple(str(c) for c in row.get("all_classes") or ())
        samples.append(
            Sample(
                prompt, answers, name, all_classes=classes, max_new_tokens=int(lengths[name]), chat=name not in NO_CHAT
            )
        )
    return samples


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it comes with the data (longbench_config/, see ORIGIN.md)")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def read_prompts(path: str | Path) -> list[Sample]:
    """A user's own prompts: a ``.jsonl`` with a field "prompt" (or "input") per row, or a text file that is one prompt.

    Raises:
        ValueError: a missing or empty file, a row without a prompt.
    """
    file = Path(path)
    if file.suffix != ".jsonl":
        if not file.is_file():
            raise ValueError(f"{file} does not exist; give a text file or a .jsonl with a field 'prompt'")
        text = file.read_text(encoding="utf-8").strip()
        if not text:
            raise ValueError(f"{file} is empty; write a prompt into it")
        return [Sample(text, (), "prompt")]
    samples = []
    for number, row in read_jsonl(file):
        prompt = row.get("prompt", row.get("input"))
        if not isinstance(prompt, str) or not prompt:
            raise ValueError(f"{file}, line {number}: the field 'prompt' is missing or no text")
        answers = row.get("answers", row.get("outputs", ()))
        samples.append(Sample(prompt, tuple(str(a) for a in answers), "prompt"))
    if not samples:
        warnings.warn(f"{file} holds no prompt", stacklevel=2)
    return samples
