"""``septet data verify|fetch|prepare|generate long_context``."""

import argparse
import hashlib
import json
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path

from septet.datamodules.long_context.checks import SOURCES
from septet.datamodules.long_context.synthetic import HAYSTACKS, NEEDLES, needle_samples

SHA256 = {
    "LongBench/multifieldqa_zh.jsonl": "e5b4fd1a437c53c1c9e4e31eda7a259110b06d14be79c3ec455008c11fb9fab5",
    "LongBench/passage_retrieval_zh.jsonl": "d71c1f71f9fee4c2108f822e9c58ac3cef94db47902c40ddfe168ecb5aab3cc0",
    "RULER/4096/niah_multikey_3.jsonl": "dc634a0bab2a8724d72a6447287523b3f104e6bac07b72a6afa85bd98de10a60",
    "longbench_config/dataset2maxlen.json": "72966b3c0933e214591637fb085798c5e687ebff4ddaab5d99bbc31120532022",
    "longbench_config/dataset2prompt.json": "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
    "tinyshakespeare.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
}
"""Files of the data folder and their checksums; further LongBench sets may lie beside the two."""


def main(action: str, argv: list[str]) -> int:
    """Run one action; returns the exit status.

    Args:
        action: "verify", "fetch", "prepare" or "generate".
        argv: its options.
    """
    parser = argparse.ArgumentParser(prog=f"septet data {action} long_context")
    if action == "generate":
        return _generate(parser, argv)
    parser.add_argument("root", nargs="?", default="data/long_context", help="folder of the long-context data")
    root = Path(parser.parse_args(argv).root)
    if action == "verify":
        return _verify(root)
    print("long_context needs no preparation: the prompts are generated, the files are read as they are.")
    print(f"Real files go to {root}:")
    for name, source in SOURCES.items():
        print(f"  {name:<24} {source}")
    return 0


def _verify(root: Path) -> int:
    """Compare checksums; 1 if a file is missing or differs."""
    status = 0
    for name, expected in SHA256.items():
        path = root / name
        if not path.is_file():
            print(f"missing  {path} ({_source(name)})")
            status = 1
            continue
        same = hashlib.sha256(path.read_bytes()).hexdigest() == expected
        print(f"{'ok     ' if same else 'differs'}  {path}")
        status = status if same else 1
    return status


def _source(name: str) -> str:
    return next(source for pattern, source in SOURCES.items() if fnmatch(name, pattern))


def _generate(parser: argparse.ArgumentParser, argv: list[str]) -> int:
    """Write needle prompts as JSON lines (fields prompt, outputs and the sample's own)."""
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--num", type=int, default=20)
    parser.add_argument("--length", type=int, default=4000, help="characters of the context")
    parser.add_argument("--haystack", choices=HAYSTACKS, default="noise")
    parser.add_argument("--needle", choices=NEEDLES, default="numbers")
    parser.add_argument("--text", type=Path, help="source of the text haystack")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    if options.haystack == "text" and (options.text is None or not options.text.is_file()):
        parser.error(f"haystack text needs --text FILE, for example tinyshakespeare.txt; got {options.text}")
    text = options.text.read_text(encoding="utf-8") if options.text else None
    samples = needle_samples(
        options.num,
        length=options.length,
        haystack=options.haystack,
        needle=options.needle,
        seed=options.seed,
        text=text,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**asdict(sample), "outputs": [sample.answer]}) for sample in samples]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(samples)} prompts in {options.out}")
    return 0
