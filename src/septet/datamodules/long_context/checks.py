"""What a ``LongContextText`` refuses when it is made, and where the public data files come from."""

from collections.abc import Sequence

from septet.datamodules.long_context.synthetic import HAYSTACKS, NEEDLES

TASKS = ("recall", "needle", "ruler_jsonl", "longbench_jsonl")
RULER_SOURCE = "GitHub repository Zefan-Cai/KVCache-Factory, data/RULER/"
LONGBENCH_SOURCE = "GitHub repository Zefan-Cai/KVCache-Factory, data/LongBench/"
CONFIG_SOURCE = "GitHub repository THUDM/LongBench, LongBench/config/"
TEXT_SOURCE = "GitHub repository karpathy/char-rnn, data/tinyshakespeare/input.txt"
SOURCES = {
    "LongBench/*.jsonl": f"{LONGBENCH_SOURCE} (MIT; the articles keep the rights of their sources)",
    "RULER/4096/*.jsonl": f"{RULER_SOURCE}4096/ (MIT; the generator NVIDIA/RULER is Apache-2.0)",
    "longbench_config/*.json": f"{CONFIG_SOURCE} (MIT)",
    "heads/duo_*.tsv": "GitHub repository mit-han-lab/duo-attention, attn_patterns/*/full_attention_heads.tsv (MIT)",
    "heads/headkv_*.npz": "GitHub repository Zefan-Cai/KVCache-Factory, data/heads_score/, means of the lists (MIT)",
    "tinyshakespeare.txt": f"{TEXT_SOURCE} (public domain)",
}
"""Public source and licence of the files by their place in the data folder."""


def check_names(task: str, haystack: str, needle: str) -> None:
    """Raise ValueError with the choices for a name that is none of them."""
    for name, value, choices in (("task", task, TASKS), ("haystack", haystack, HAYSTACKS), ("needle", needle, NEEDLES)):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")


def check_sizes(lengths: Sequence[int], depths: Sequence[float] | None, **counts: int) -> None:
    """Raise ValueError for no or non-positive context lengths, no depth or one outside [0, 1], counts below one."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"context_length {lengths} must be one or more positive numbers")
    if depths is not None and (not depths or not all(0 <= depth <= 1 for depth in depths)):
        raise ValueError(f"depths {depths} must be one or more numbers in [0, 1]; null draws them uniformly")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
