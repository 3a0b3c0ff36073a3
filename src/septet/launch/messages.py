"""The parser's long reports, boiled down to the one line a user can act on."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from septet.launch.errors import did_you_mean
from septet.launch.methods import METHODS


def tidy_message(message: str, parser_keys: Iterable[str] = ()) -> str:
    """One line naming the key, its value and the nearest valid name.

    Args:
        message: of jsonargparse; for a class it lists every union member that did not fit.
        parser_keys: the keys the parser knows.
    """
    text = " ".join(message.split())
    for pattern in (
        r"(Problem with given class_path '[^']*': .*?)(?: - Expected a| Given value|$)",
        r"(Unable to load config .*|Expected a path but .*? either not accessible or invalid)(?: - |$)",
    ):
        if found := re.search(pattern, text):
            return _inner(found.group(1)) or found.group(1) + _class_hint(found.group(1))
    return _inner(text) or _unrecognized(text, parser_keys) or _wrong_type(text) or text


def _inner(text: str) -> str | None:
    """Messages about one option of a class, also when they come wrapped in an outer report."""
    if found := re.search(
        r"(unknown key '[^']+'.*?|[\w.]+: Expected an? .*?Got value: .*?)(?: - Expected a| Given value|$)", text
    ):
        return found.group(1)
    outer = re.match(r"Parser key [\"']([\w.]+)[\"']", text)
    where = f" of {outer.group(1)}" if outer else ""
    if found := re.search(r"(?:Option|Key) ['\"]([\w.]+)['\"] (?:is not accepted|not accepted|is not expected)", text):
        key = found.group(1)
        return f"unknown key {key!r}{where}{did_you_mean(key.rsplit('.', 1)[-1], _class_options())}"
    if found := re.search(r"does not accept nested key ['\"]([\w.]+)['\"]", text, re.I):
        key = found.group(1)
        return f"unknown key {key!r}{where}{did_you_mean(key.rsplit('.', 1)[-1], _class_options())}"
    values = re.findall(r"Parser key [\"']([\w.]+)[\"']: (Expected .*?Got value: .+?)(?= - |; did you|$)", text)
    if values:
        key, reason = values[-1]
        return f"{key}: {reason.replace('<class ', '').replace('>', '')}"
    return None


def _unrecognized(text: str, parser_keys: Iterable[str]) -> str | None:
    """A key that the parser itself does not know."""
    found = re.search(r"[Uu]nrecognized arguments?: (\S+)", text) or re.search(
        r"Key ['\"]?([\w.]+)['\"]? is not expected|[Nn]o action for key ['\"]([\w.]+)['\"]|"
        r"does not accept option ['\"]([\w.]+)['\"]",
        text,
    )
    if found is None:
        return None
    key = next(g for g in found.groups() if g).lstrip("-").split("=")[0]
    keys = set(parser_keys) or _stage_keys()
    head = key.split(".")[0]
    tops = {k.split(".")[0] for k in keys}
    if head not in tops and (hint := did_you_mean(head, tops)).startswith("; did"):
        return f"unknown key {key!r}{hint}"
    return f"unknown key {key!r}{did_you_mean(key, keys)}"


def _class_hint(text: str) -> str:
    """The nearest class of the table for a class path that does not exist."""
    found = re.search(r"class_path '([\w.]+)'", text)
    known = [path for row in METHODS.values() for path in (row.module, row.datamodule)]
    hint = did_you_mean(found.group(1), known) if found else ""
    return hint if hint.startswith("; did") else ""


def _wrong_type(text: str) -> str | None:
    """A value that fits none of several types; a class among them may have said why."""
    said = r"(?!Expected |Does not validate)(.+?)(?: - Expected | Given value type|$)"
    own = re.search(rf"Errors: (?:- Expected [^-]*)*- {said}", text)
    if own:
        return own.group(1)
    found = re.search(r"Parser key [\"']([\w.]+)[\"']: Does not validate.*Given value: (.+)$", text)
    return f"{found.group(1)}: the value {found.group(2)} has the wrong type" if found else None


def _stage_keys() -> set[str]:
    """Keys of a stage's configuration: the trainer's arguments and the top level."""
    from lightning.pytorch import Trainer

    trainer = {f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters if name != "self"}
    return trainer | {"model", "data", "model.class_path", "data.class_path", "seed_everything", "ckpt_path"}


def _class_options() -> set[str]:
    """Constructor arguments of the classes named on the command line and in its configurations."""
    words = list(sys.argv)
    for word in sys.argv:
        path = Path(word)
        if path.suffix in (".yaml", ".yml") and path.is_file():
            words += path.read_text().split()
    options: set[str] = set()
    for name in set(re.findall(r"[A-Za-z_]\w*(?:\.\w+)+", " ".join(words))):
        module, _, attribute = name.rpartition(".")
        loaded = sys.modules.get(module)
        if loaded is None and module.startswith("septet."):
            loaded = importlib.import_module(module) if _importable(module) else None
        target = getattr(loaded, attribute, None)
        if inspect.isclass(target):
            options |= set(inspect.signature(target).parameters)
    return options | {"class_path", "init_args"}


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
