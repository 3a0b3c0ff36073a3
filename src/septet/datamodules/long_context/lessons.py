"""Training prompts of the needle task: one text, several questions about it, and a curriculum over lengths."""

import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from septet.datamodules.long_context.recall import IGNORE
from septet.datamodules.long_context.synthetic import NEEDLES, NeedleSample

PASSED, FINISHED = 0.98, 0.998
"""Training accuracy of an epoch at which a curriculum goes to the next length, and at which it ends."""
KEY_START = 8
"""Tokens of an asked key that cannot be foreseen; the rest follow from the text and are trained like answers."""
_FACT = re.compile(r"^One of the special magic \w+ for (\S+) is: (\S+)\.$", re.MULTILINE)
_FACT_LENGTH = 115
"""Characters of the longest fact's line (two uuids)."""
Encode = Callable[[str], list[int]]


class Kind(NamedTuple):
    """What the texts of one training batch look like."""

    length: int
    haystack: str
    needle: str
    n_pairs: int


def varied(shortest: int, longest: int, seed: int) -> Kind:
    """A kind at random: length, haystack, needle and number of facts, so that no place or width gives a fact away.

    Args:
        shortest: characters at least.
        longest: characters at most.
        seed: of the choice.
    """
    rng = random.Random(seed)
    length = rng.randint(shortest, max(shortest, longest))
    most = max(1, length // 2 // _FACT_LENGTH)
    return Kind(length, rng.choice(("noise", "pairs")), rng.choice(NEEDLES), rng.randint(min(2, most), most))


def level(rows: list[tuple[Tensor, Tensor]], filler: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Rows of equal length: blank lines go in front of the shorter ones, so that no row needs a padding mask.

    Args:
        rows: ids and labels ``(T,)``.
        filler: tokens of a blank line; more than one leaves the rows as they are.
    """
    longest = max(len(ids) for ids, _ in rows)
    if len(filler) != 1:
        return rows
    return [
        (
            torch.cat([torch.full((longest - len(ids),), filler[0]), ids]),
            torch.cat([torch.full((longest - len(ids),), IGNORE), labels]),
        )
        for ids, labels in rows
    ]


def lesson(
    sample: NeedleSample, prompt: str, prefix: str, needle: str, questions: int, seed: int, encode: Encode
) -> tuple[Tensor, Tensor]:
    """A prompt, its answer and further questions about other facts of the same text.

    Args:
        sample: the generated text.
        prompt: text before the first answer starts.
        prefix: start of an answer, with ``{key}`` and ``{type}``.
        needle: "numbers", "words" or "uuids".
        questions: in all; at most as many as the text has facts.
        seed: of the order of the further questions.
        encode: text -> token ids.

    Returns:
        Token ids and labels ``(T,)``; labelled are the answers and, of repeated keys, what follows.
    """
    facts = [pair for pair in _FACT.findall(sample.context) if pair[0] != sample.key]
    random.Random(seed).shuffle(facts)
    ids = encode(prompt)
    labels = [IGNORE] * len(ids)
    single = needle[:-1]
    for number, (key, value) in enumerate([(sample.key, sample.answer), *facts][:questions]):
        asked = f"\nWhat is the special magic {single} for {key} mentioned in the provided text?" if number else ""
        blank = "" if not prefix or (not number and prompt.endswith(("\n", " "))) else " "
        start = blank + prefix.format(key=key, type=single)
        for text, free in (*_around(asked, key, KEY_START), *_around(start, key, 0), (f" {value}", 0)):
            part = encode(text)
            ids += part
            labels += [IGNORE] * min(free, len(part)) + part[free:]
    return torch.tensor(ids), torch.tensor(labels)


def _around(text: str, key: str, unforeseen: int) -> Sequence[tuple[str, int]]:
    """Pieces of a text and how many leading tokens of each carry no label; the key is a piece of its own."""
    before, found, after = text.partition(key)
    pieces = ((before, len(before)), (found, unforeseen), (after, len(after)))
    return [piece for piece in pieces if piece[0]]
