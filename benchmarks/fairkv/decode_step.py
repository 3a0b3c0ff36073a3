"""A cut random Llama with filled caches, and its decode step with fixed addresses (parts of run_decode.py)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from septet.kernels.attention import decode_attention
from septet.kernels.cache import CompressedCache, RaggedLayer
from septet.kernels.placement import HeadPlan
from septet.kernels.policies import build_policy
from septet.lightning_modules.cake.model import CausalLM, DecoderConfig, rotate
from septet.lightning_modules.strategies import parallelise


class SeededWeights(Mapping[str, Tensor]):
    """Every tensor of the model from a seed of its own, drawn whole on the device when asked for."""

    def __init__(self, config: DecoderConfig, device: torch.device, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            names = dict(CausalLM(config).named_parameters())
        self.shapes = {f"model.{name}": tuple(p.shape) for name, p in names.items()}
        self.device, self.dtype = device, dtype

    def __getitem__(self, name: str) -> Tensor:
        """Norms are one, embeddings N(0, 1), matrices N(0, 1 / fan_in)."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, device=self.device, dtype=self.dtype)
        generator = torch.Generator(self.device).manual_seed(list(self.shapes).index(name))
        value = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        return value * (1.0 if "embed" in name else shape[1] ** -0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def build(config: DecoderConfig, plan: HeadPlan, device: torch.device, dtype: torch.dtype) -> CausalLM:
    """This process's part of the random model; the same whole model for every plan."""
    with torch.device("meta"):
        model = CausalLM(config).to(dtype)
    parallelise(model, plan).to_empty(device=device)
    model.lm_head.weight = model.embed_tokens.weight
    model.reset_rope()
    model.shard.device = device  # type: ignore[union-attr]
    model.load_hf_state_dict(SeededWeights(config, device, dtype))
    return model.eval()


def fill(model: CausalLM, tokens: Tensor, batch: int) -> CompressedCache:
    """A cache as after prompts of the profile's kept lengths; content depends on (layer, row, head) alone."""
    config, device = model.config, model.embed_tokens.weight.device
    cache = model.new_cache(build_policy("full"), batch)
    longest = int(tokens.max())
    cache.prompt_lengths = [longest] * batch
    for layer in range(config.n_layers):
        generator = torch.Generator(device).manual_seed(1000 + layer)
        size = (2, longest + 97 * config.n_kv_heads + batch, config.size)
        key, value = torch.randn(size, generator=generator, device=device, dtype=model.embed_tokens.weight.dtype)
        heads = list(cache.shard.heads[layer])
        count = [[int(tokens[layer, h]) for h in heads] for _ in range(batch)]
        for row in range(batch):
            served = cache.shard.local(layer, row)
            count[row] = [n if i in served else 0 for i, n in enumerate(count[row])]
        parts = [
            [
                [pool[row + 97 * h : row + 97 * h + n] for h, n in zip(heads, count[row], strict=True)]
                for row in range(batch)
            ]
            for pool in (key, value)
        ]
        cache.layers[layer] = _layer(parts, count, key) if heads else RaggedLayer.gather(
            key.new_zeros(batch, 0, 1, config.size), key.new_zeros(batch, 0, 1, config.size), [[]] * batch, [0] * batch
        )  # fmt: skip
    return cache


def _layer(parts: list[Any], count: list[list[int]], like: Tensor) -> RaggedLayer:
    """Segments of these lengths; positions end at the prompt's end in every segment."""
    positions = [[torch.arange(n, device=like.device) for n in row] for row in count]
    return RaggedLayer(parts[0], parts[1], positions)


class StaticStep:
    """One decode step with fixed addresses: the appended token overwrites the newest slot of its segment."""

    def __init__(self, model: CausalLM, cache: CompressedCache, ids: Tensor, backend: str = "auto") -> None:
        self.model, self.cache, self.ids, self.backend = model, cache, ids, backend
        self.rope = model.rope(cache.next_positions(1).to(ids.device) - 1, model.embed_tokens.weight.dtype)
        self.slots = [self._newest(layer) for layer in range(model.config.n_layers)]

    def _newest(self, layer: int) -> tuple[Tensor, Tensor]:
        """Flat slots of the newest tokens, and the flat (row, head) pairs that are served."""
        stored = self.cache.layer(layer)
        served = torch.nonzero(stored.lengths_tensor.flatten() > 0).flatten()
        return (stored.offsets_tensor + stored.lengths_tensor - 1).flatten()[served], served

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Write the token and attend."""
        stored, (slots, served) = self.cache.layer(layer), self.slots[layer]
        if not query.shape[1]:
            return query
        for buffer, new in zip(stored.flat, (key, value), strict=True):
            buffer.index_copy_(0, slots, new.flatten(0, 2).index_select(0, served))
        return decode_attention(query, stored, backend=self.backend, allow_empty=True)

    def project(self, layer: int, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated query and key, and value, of the local heads."""
        block = self.model.layers[layer].self_attn
        return (
            rotate(block.heads(normed, block.q_proj), *self.rope),
            rotate(block.heads(normed, block.k_proj), *self.rope),
            block.heads(normed, block.v_proj),
        )

    def __call__(self) -> Tensor:
        """Logits ``(B, V)``."""
        x = self.model.embed_tokens(self.ids)
        for index, layer in enumerate(self.model.layers):
            attended = self.attend(index, *self.project(index, layer.input_layernorm(x)))
            x = layer._residual(x, attended)
        logits: Tensor = self.model.lm_head(self.model.norm(x))[:, -1]
        return logits

    def attention_only(self, layer: int) -> Callable[[], Any]:
        """Append and attention of one layer on fixed inputs."""
        generator = torch.Generator(self.ids.device).manual_seed(layer)
        size = (len(self.ids), 1, self.model.config.hidden_size)
        hidden = torch.randn(size, generator=generator, device=self.ids.device).to(self.model.embed_tokens.weight.dtype)
        inputs = self.project(layer, hidden)
        return lambda: self.attend(layer, *inputs)


def median_ms(function: Callable[[], Any], repeats: int, cuda: bool, *, together: bool = True) -> float:
    """Median milliseconds; ``together``: processes start each repeat at the same time."""
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
        if together:
            dist.barrier()
        start = time.perf_counter()
        if cuda:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            function()
            events[1].record()
            torch.cuda.synchronize()
            times.append(events[0].elapsed_time(events[1]))
        else:
            function()
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def captured(function: Callable[[], Any], graphs: bool) -> tuple[Callable[[], Any], Any]:
    """The function as a CUDA graph and its static output; itself without graphs."""
    if not graphs:
        return function, None
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = function()
    return graph.replay, out
