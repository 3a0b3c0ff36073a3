"""Strategies: how a model is spread over devices, apart from the model itself."""

from septet.lightning_modules.strategies.export import export_safetensors
from septet.lightning_modules.strategies.fairkv import FairKVStrategy, check_profile, profile_heads
from septet.lightning_modules.strategies.head_parallel import parallelise

__all__ = ["FairKVStrategy", "check_profile", "export_safetensors", "parallelise", "profile_heads"]
