"""Canonical form of a record's identity: equal meaning, equal text, equal key (specification, "Record contract")."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

IDENTITY: dict[str, tuple[str, ...] | None] = {
    "scenario": ("task", "modality", "horizon", "domain", "metric", "direction", "unit"),
    "dataset": ("name", "version", "split", "channel"),
    "model": ("name", "variant", "config_sha256"),
    "protocol": None,
}
"""Fields that make a key, per block; None: all of them."""


ALIASES: dict[str, dict[str, str]] = json.loads(
    (files("septet.datamodules.scenarios") / "aliases.json").read_text(encoding="utf-8")
)


@lru_cache(1 << 16)
def _text(value: str) -> str:
    """NFC, white-space runs to one blank, strip, casefold, NFC."""
    value = re.sub(r"\s+", " ", unicodedata.normalize("NFC", value)).strip()
    return unicodedata.normalize("NFC", value.casefold())


def canonical(value: Any, where: str = "record") -> Any:
    """One value in canonical form; None for what vanishes.

    Raises:
        ValueError: non-finite number, or two keys that become one.
    """
    if isinstance(value, str):
        return _text(value) or None
    if value is None or isinstance(value, bool | int):
        return value
    if hasattr(value, "item") and not isinstance(value, Mapping):
        return canonical(value.item(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: an identity field must be finite; leave it out instead")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return _canonical_mapping(value, where)
    if isinstance(value, list | tuple):
        return [canonical(v, f"{where}[{i}]") for i, v in enumerate(value)] or None
    raise ValueError(f"{where} is of type {type(value).__name__}; use text, numbers, lists or mappings")


def _canonical_mapping(value: Mapping[Any, Any], where: str) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = _text(str(key))
        if name in found:
            raise ValueError(f"{where} has two fields that both read {name!r}; keep one of them")
        found[name] = canonical(item, f"{where}.{key}")
    return {k: v for k, v in found.items() if v is not None} or None


Frozen = tuple[tuple[str, type, Any], ...]
"""Identity fields of a block where all are scalars: a key for caches (types tell 1 from True)."""


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _frozen(name: str, block: Any) -> Frozen | None:
    """Identity fields as a hashable; None where a value is no scalar."""
    if block is None:
        return ()
    if type(block) is not dict and not isinstance(block, Mapping):
        raise ValueError(f"{name} is {block!r}; it must be a mapping")
    fields, found = IDENTITY[name], []
    for key, value in block.items():
        if fields is not None and key not in fields and _text(str(key)) not in fields:
            continue
        kind = type(value)
        if kind not in _SCALARS:
            return None
        found.append((str(key), kind, value))
    return tuple(found)


def _block(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = canonical(block if IDENTITY[name] is None else _identity(name, block), name) or {}
    aliases = ALIASES.get(name)
    if aliases and isinstance(found.get("name"), str):
        found["name"] = aliases.get(found["name"], found["name"])
    return found


@lru_cache(1 << 14)
def _frozen_block(name: str, frozen: Frozen) -> dict[str, Any]:
    if len({key for key, _, _ in frozen}) < len(frozen):
        raise ValueError(f"{name} has two fields of one name; keep one of them")
    return _block(name, {key: value for key, _, value in frozen})


def canonical_block(name: str, block: Mapping[str, Any] | None) -> dict[str, Any]:
    """The identity fields of one block in canonical form, names resolved through the alias table."""
    frozen = _frozen(name, block)
    return dict(_frozen_block(name, frozen)) if frozen is not None else _block(name, block or {})


def _identity(name: str, block: Mapping[str, Any]) -> dict[Any, Any]:
    fields = IDENTITY[name] or ()
    return {k: v for k, v in block.items() if _text(str(k)) in fields}


def canonical_json(record: Mapping[str, Any]) -> str:
    """The four identity blocks as canonical JSON (specification, "Record contract").

    Raises:
        ValueError: a non-finite identity field, colliding field names or an unsupported type.
    """
    blocks = {name: canonical_block(name, record.get(name)) for name in IDENTITY}
    kept = {name: block for name, block in blocks.items() if block}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@lru_cache(1 << 16)
def _frozen_key(frozen: tuple[Frozen, ...]) -> str:
    blocks = {name: {k: v for k, _, v in part} for name, part in zip(IDENTITY, frozen, strict=True)}
    return _digest(canonical_json(blocks))


def canonical_key(record: Mapping[str, Any]) -> str:
    """blake2b-128 of :func:`canonical_json`, hexadecimal."""
    frozen = tuple(_frozen(name, record.get(name)) for name in IDENTITY)
    kept = tuple(part for part in frozen if part is not None)
    return _frozen_key(kept) if len(kept) == len(frozen) else _digest(canonical_json(record))


@lru_cache(1 << 16)
def _frozen_text(names: tuple[str, ...], frozen: tuple[Frozen, ...]) -> str:
    return _dump([_frozen_block(name, part) for name, part in zip(names, frozen, strict=True)])


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def block_text(record: Mapping[str, Any], *names: str) -> str:
    """Some identity blocks of a record as one text; equal texts mean equal blocks."""
    frozen = tuple(_frozen(name, record.get(name)) for name in names)
    kept = tuple(part for part in frozen if part is not None)
    if len(kept) == len(frozen):
        return _frozen_text(names, kept)
    return _dump([canonical_block(name, record.get(name)) for name in names])


def observation_id(record: Mapping[str, Any]) -> str:
    """Identity of one measurement: its run (or source) and seed."""
    provenance = record.get("provenance") or {}
    run, seed = origin(provenance), provenance.get("seed")
    return _observation(run, seed) if isinstance(run, str) and type(seed) in (int, type(None)) else _id(run, seed)


def _id(run: Any, seed: Any) -> str:
    return _digest(json.dumps([run, seed], separators=(",", ":")))


_observation = lru_cache(1 << 16)(_id)


def origin(provenance: Mapping[str, Any]) -> Any:
    """Run id, else source."""
    return provenance.get("run_id") or provenance.get("source")
