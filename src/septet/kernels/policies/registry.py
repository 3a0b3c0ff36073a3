"""Policies by name, for configs: a policy as a plain mapping and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from septet.kernels.policies.base import FullCache, Policy
from septet.kernels.policies.baselines import H2O, TOVA, AdaKV, KNorm, PyramidKV, Random, SnapKV, StreamingLLM
from septet.kernels.policies.cake import CAKE
from septet.kernels.policies.static import DuoAttention, HeadKV, with_capacity

POLICIES: dict[str, type[Policy]] = {
    "full": FullCache,
    "cake": CAKE,
    "snapkv": SnapKV,
    "pyramidkv": PyramidKV,
    "h2o": H2O,
    "adakv": AdaKV,
    "tova": TOVA,
    "streamingllm": StreamingLLM,
    "knorm": KNorm,
    "random": Random,
    "headkv": HeadKV,
    "duoattention": DuoAttention,
}


def build_policy(spec: Policy | str | Mapping[str, Any]) -> Policy:
    """Make a policy from its name or from a mapping ``{name: ..., option: ...}``.

    ``{name: headkv, scores: FILE, n_kv_heads: ..., capacity: ...}`` builds the table of HeadKV from retrieval scores,
    and ``{name: cake, model: llama3.1-8b, capacity: ...}`` takes the published temperatures; both have capacity 1024
    unless it is given.

    Raises:
        ValueError: an unknown name (the choices are listed) or an option that the policy does not have.
    """
    if isinstance(spec, Policy):
        return spec
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(options.pop("name", "")).lower()
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; choose one of {', '.join(POLICIES)}")
    try:
        if name == "headkv" and "scores" in options:
            return HeadKV.from_scores(**{"capacity": CAKE.capacity, **options})
        if name == "cake" and "model" in options:
            return CAKE.for_model(options.pop("model"), **{"capacity": CAKE.capacity, **options})
        return POLICIES[name](**options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(POLICIES[name]))
        raise ValueError(f"policy {name!r} does not take {options}: {error}; its options: {known}") from error


def sized_policy(spec: Policy | str | Mapping[str, Any], capacity: int) -> Policy:
    """The policy of a specification at a capacity; policies without one are returned as they are.

    What follows from the capacity follows this one: the published temperatures of ``{name: cake, model: ...}``, the
    table of ``{name: headkv, scores: ...}``.

    Raises:
        ValueError: as ``build_policy``.
    """
    if isinstance(spec, Policy):
        return with_capacity(spec, capacity)
    options = {"name": spec} if isinstance(spec, str) else dict(spec)
    kind = POLICIES.get(str(options.get("name", "")).lower(), FullCache)
    sized = "scores" in options if kind is HeadKV else any(field.name == "capacity" for field in fields(kind))
    return build_policy({**options, "capacity": capacity} if sized else options)


def policy_spec(policy: Policy) -> dict[str, Any]:
    """The policy as a plain mapping for ``build_policy`` (tables become nested lists)."""
    spec: dict[str, Any] = {"name": policy.slug}
    for field in fields(policy):
        if isinstance(policy, HeadKV) and field.name == "capacity":
            continue
        value = getattr(policy, field.name)
        spec[field.name] = [list(row) for row in value] if isinstance(value, tuple) else value
    return spec
