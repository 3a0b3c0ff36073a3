"""Eviction policies for KV caches: scores, budgets and a replay on recorded tensors."""

from septet.kernels.policies.allocation import allocate, headkv_table, round_official
from septet.kernels.policies.base import FullCache, Policy
from septet.kernels.policies.baselines import H2O, TOVA, AdaKV, KNorm, PyramidKV, Random, SnapKV, StreamingLLM
from septet.kernels.policies.cake import CAKE
from septet.kernels.policies.registry import POLICIES, build_policy, policy_spec, sized_policy
from septet.kernels.policies.replay import Replay, replay
from septet.kernels.policies.scores import indicator, preference
from septet.kernels.policies.static import DuoAttention, HeadKV, load_table, with_capacity
from septet.kernels.policies.stats import WindowStats, window_stats

__all__ = [
    "CAKE",
    "H2O",
    "POLICIES",
    "TOVA",
    "AdaKV",
    "DuoAttention",
    "FullCache",
    "HeadKV",
    "KNorm",
    "Policy",
    "PyramidKV",
    "Random",
    "Replay",
    "SnapKV",
    "StreamingLLM",
    "WindowStats",
    "allocate",
    "build_policy",
    "headkv_table",
    "indicator",
    "load_table",
    "policy_spec",
    "preference",
    "replay",
    "round_official",
    "sized_policy",
    "window_stats",
    "with_capacity",
]
