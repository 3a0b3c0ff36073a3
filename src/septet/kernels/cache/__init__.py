"""KV caches that free memory: ragged storage, policies applied while reading and generating, a transformers bridge."""

from septet.kernels.cache.compressed import CompressedCache
from septet.kernels.cache.ragged import RaggedLayer
from septet.kernels.cache.recording import RecordedPrompt
from septet.kernels.cache.shard import Shard

__all__ = ["CompressedCache", "RaggedLayer", "RecordedPrompt", "Shard"]
