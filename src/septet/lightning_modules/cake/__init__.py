"""CAKE and its rivals: long-context training and evaluation with compressed KV caches."""

from septet.lightning_modules.cake.metrics import LongBenchScore, NeedleGrid
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig
from septet.lightning_modules.cake.module import LongContextModule

__all__ = ["CausalLM", "DecoderConfig", "LongBenchScore", "LongContextModule", "NeedleGrid"]
