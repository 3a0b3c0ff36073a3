"""Needles in a haystack, in RULER's wording (arXiv 2404.06654), from a seed."""

import itertools
import random
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HAYSTACKS = ("noise", "pairs", "text")
NEEDLES = ("numbers", "words", "uuids")
NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
ADJECTIVES = (
    "amber", "ancient", "bitter", "bold", "brave", "brisk", "calm", "clever", "coral", "crimson", "curious",
    "daring", "distant", "eager", "early", "earnest", "fabled", "faint", "fearless", "fierce", "gentle", "gilded",
    "golden", "grand", "hollow", "humble", "idle", "ivory", "jolly", "keen", "lively", "lonely", "lucid", "mellow",
    "merry", "mighty", "misty", "modest", "noble", "pale", "patient", "placid", "proud", "quiet", "rapid",
    "restless", "rugged", "rustic", "sacred", "scarlet", "secret", "serene", "silent", "silver", "sincere",
    "slender", "solemn", "stormy", "sturdy", "subtle", "tender", "tranquil", "vivid", "wandering", "wistful",
    "zealous",
)  # fmt: skip
NOUNS = (
    "acorn", "anchor", "anvil", "arrow", "badge", "banner", "barrel", "basin", "beacon", "bridge", "bronze",
    "candle", "canyon", "castle", "cedar", "cellar", "chapel", "cliff", "clock", "comet", "copper", "cradle",
    "creek", "crown", "dagger", "desert", "dragon", "ember", "engine", "falcon", "feather", "fiddle", "forest",
    "fountain", "garden", "glacier", "hammer", "harbor", "harvest", "island", "jungle", "kettle", "ladder",
    "lantern", "ledger", "lighthouse", "magnet", "meadow", "mirror", "mountain", "orchard", "parade", "pebble",
    "pillow", "planet", "prairie", "pulley", "quarry", "raven", "ribbon", "saddle", "shelter", "shovel", "thimble",
    "valley", "violin", "walnut", "whistle",
)  # fmt: skip


@dataclass(frozen=True)
class NeedleSample:
    """One prompt with one fact to find.

    Attributes:
        prompt: intro, context and question, each on its own line(s).
        context: the haystack with the needle line(s).
        question: RULER's question.
        answer: value of the asked key; occurs exactly once in the context.
        key: the asked key.
        depth: where the line was put, share of the context in [0, 1].
    """

    prompt: str
    context: str
    question: str
    answer: str
    key: str
    depth: float


def needle_line(needle: str, key: str, value: str) -> str:
    """The sentence that states a fact."""
    return f"One of the special magic {needle} for {key} is: {value}."


def needle_samples(
    n: int,
    *,
    length: int,
    haystack: str = "noise",
    needle: str = "numbers",
    depth: float | Sequence[float] | None = None,
    n_pairs: int = 1,
    seed: int = 0,
    text: str | None = None,
) -> list[NeedleSample]:
    """Generate needle prompts; sample ``i`` depends on ``(seed, i)`` only.

    Args:
        n: number of samples.
        length: characters of the context, at most (and at least 0.9 of it).
        haystack: "noise" (five sentences in turn), "pairs" (facts about other keys) or "text" (sentences of ``text``).
        needle: "numbers" (7 digits), "words" or "uuids".
        depth: place of the true line in [0, 1]; a list is used in turn; None draws it uniformly.
        n_pairs: facts in all; the others have other keys.
        seed: of everything.
        text: source of the "text" haystack.

    Returns:
        The samples.

    Raises:
        ValueError: an unknown haystack or needle, a depth outside [0, 1], needles longer than the length, "text"
            without text.
    """
    if haystack not in HAYSTACKS:
        raise ValueError(f"unknown haystack {haystack!r}; choose one of {', '.join(HAYSTACKS)}")
    if needle not in NEEDLES:
        raise ValueError(f"unknown needle {needle!r}; choose one of {', '.join(NEEDLES)}")
    if n_pairs < 1 or n < 0:
        raise ValueError(f"n = {n} must be >= 0 and n_pairs = {n_pairs} >= 1")
    depths = [None] if depth is None else [depth] if isinstance(depth, int | float) else list(depth)
    for value in depths:
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"depth {value} must lie in [0, 1]")
    sentences = _sentences(text) if haystack == "text" else None
    return [_sample(i, length, haystack, needle, depths[i % len(depths)], n_pairs, seed, sentences) for i in range(n)]


def _sentences(text: str | None) -> list[str]:
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text or "")]
    kept = [part for part in parts if part]
    if not kept:
        raise ValueError("haystack 'text' needs text; pass text=... (for example tinyshakespeare.txt)")
    return kept


def _facts(rng: random.Random, needle: str) -> Callable[[], tuple[str, str]]:
    """A source of distinct (key, value) pairs, no part of which occurs in another."""
    used: set[str] = set()

    def word() -> str:
        base = f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
        return base if len(used) < len(ADJECTIVES) * len(NOUNS) // 4 else f"{base}-{rng.randrange(10**6):06d}"

    def identifier() -> str:
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))

    def number() -> str:
        return str(rng.randrange(10**6, 10**7))

    makers = {"numbers": (word, number), "words": (word, word), "uuids": (identifier, identifier)}[needle]

    def draw() -> tuple[str, str]:
        pair = []
        for make in makers:
            value = make()
            while value in used:
                value = make()
            used.add(value)
            pair.append(value)
        return pair[0], pair[1]

    return draw


def _hay(
    rng: random.Random, haystack: str, needle: str, draw: Callable[[], tuple[str, str]], sentences: list[str] | None
) -> Callable[[], str]:
    """A source of haystack lines."""
    if haystack == "pairs":
        return lambda: needle_line(needle, *draw())
    source = NOISE if sentences is None else sentences
    state = {"next": 0 if sentences is None else rng.randrange(len(source))}

    def line() -> str:
        state["next"] += 1
        return source[(state["next"] - 1) % len(source)]

    return line


def _sample(
    index: int,
    length: int,
    haystack: str,
    needle: str,
    depth: float | None,
    n_pairs: int,
    seed: int,
    sentences: list[str] | None,
) -> NeedleSample:
    rng = random.Random(seed * 1_000_003 + index)
    place = rng.random() if depth is None else float(depth)
    draw = _facts(rng, needle)
    key, answer = draw()
    true = needle_line(needle, key, answer)
    others = [needle_line(needle, *draw()) for _ in range(n_pairs - 1)]
    room = length - sum(len(line) + 1 for line in [true, *others]) + 1
    if room < 0:
        raise ValueError(
            f"{n_pairs} needles are longer than length = {length} characters; raise length or lower n_pairs"
        )
    lines = _fill(_hay(rng, haystack, needle, draw, sentences), room, answer, length // 20)
    for other in others:
        lines.insert(rng.randrange(len(lines) + 1), other)
    _insert(lines, true, place * length)
    context = "\n".join(lines)
    single = needle[:-1]
    intro = (
        f"A special magic {single} is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {single} afterwards."
    )
    question = f"What is the special magic {single} for {key} mentioned in the provided text?"
    return NeedleSample(f"{intro}\n{context}\n{question}", context, question, answer, key, place)


def _fill(line: Callable[[], str], room: int, answer: str, spare: int) -> list[str]:
    """Haystack lines in ``room`` characters, one newline each; noise fills up what a longer line would leave empty.

    Args:
        line: source of the haystack.
        room: characters to fill.
        answer: must not occur.
        spare: characters that may stay empty.
    """
    lines: list[str] = []
    text = line()
    while answer in text or len(text) + 1 <= room:
        if answer not in text:
            lines.append(text)
            room -= len(text) + 1
        text = line()
    for text in itertools.cycle(NOISE):
        if room <= spare or room < len(NOISE[3]) + 1:
            return lines
        if len(text) + 1 <= room:
            lines.append(text)
            room -= len(text) + 1
    raise AssertionError("unreachable")


def _insert(lines: list[str], true: str, target: float) -> None:
    """Put the true line at the boundary nearest to the target offset."""
    starts = [0]
    for text in lines:
        starts.append(starts[-1] + len(text) + 1)
    best = min(range(len(starts)), key=lambda i: abs(starts[i] - target))
    lines.insert(best, true)
