import json

import pytest
from tests.support.paths import shared_data

from septet.datamodules.long_context.readers import read_longbench, read_prompts, read_ruler


def test_ruler():
    path = shared_data("long_context/RULER/4096/niah_multikey_3.jsonl")
    samples = read_ruler(path)
    assert len(samples) == 500
    first = json.loads(path.read_text().split("\n")[0])
    assert f"{samples[0].prompt} {samples[0].prefix}" == first["input"]
    assert samples[0].answers == tuple(first["outputs"])
    assert samples[0].prompt.count(samples[0].answers[0]) == 1
    assert 0 < samples[0].depth < 1
    assert samples[0].task == "niah_multikey_3"


@pytest.mark.parametrize(("name", "length"), [("multifieldqa_zh", 64), ("passage_retrieval_zh", 32)])
def test_longbench(name, length):
    samples = read_longbench(shared_data(f"long_context/LongBench/{name}.jsonl"))
    assert len(samples) == 200
    assert all(s.task == name and s.max_new_tokens == length and s.answers for s in samples)
    assert "{context}" not in samples[0].prompt


def test_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("What is two plus two?\n")
    (tmp_path / "b.jsonl").write_text('{"prompt": "one"}\n\n{"input": "two", "outputs": ["2"]}\n')
    assert [s.prompt for s in read_prompts(tmp_path / "a.txt")] == ["What is two plus two?"]
    assert [(s.prompt, s.answers) for s in read_prompts(tmp_path / "b.jsonl")] == [("one", ()), ("two", ("2",))]


def test_bad_files(tmp_path):
    with pytest.raises(ValueError, match=r"gone.jsonl does not exist; .*GitHub repository Zefan-Cai/KVCache-Factory"):
        read_ruler(tmp_path / "gone.jsonl")
    bad = tmp_path / "bad.jsonl"
    for text, message in (
        ('{"input": "a", "outputs": ["b"]}\n{"input": \n', "bad.jsonl, line 2: not JSON"),
        ("[1]\n", "line 1: expected an object"),
        ('{"input": "a"}\n', "line 1: the field 'outputs' is missing"),
        ('{"input": "a", "outputs": []}\n', "line 1: 'outputs' must be a string or a list"),
        ('{"input": "a", "outputs": 5}\n', "line 1: 'outputs' must be a string or a list"),
        ('{"input": 5, "outputs": ["b"]}\n', "line 1: 'input' must be text, found int"),
        ("\n", "bad.jsonl holds no row"),
    ):
        bad.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_ruler(bad)
    bad.write_text('{"context": "c", "input": "i", "answers": ["a"], "dataset": "unknown"}\n')
    with pytest.raises(ValueError, match=r"dataset2prompt.json does not exist"):
        read_longbench(bad, config=tmp_path)
    (tmp_path / "dataset2prompt.json").write_text('{"qasper": "{context} {input}"}')
    (tmp_path / "dataset2maxlen.json").write_text('{"qasper": 5}')
    with pytest.raises(ValueError, match="no prompt template for 'unknown'"):
        read_longbench(bad, config=tmp_path)
    bad.write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="the field 'prompt' is missing"):
        read_prompts(bad)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        read_prompts(tmp_path / "empty.txt")
    with pytest.raises(ValueError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")


def test_commands(tmp_path, capsys):
    from septet.datamodules.long_context.commands import main

    assert main("verify", [str(shared_data("long_context"))]) == 0
    assert main("verify", [str(tmp_path)]) == 1
    assert "karpathy/char-rnn" in capsys.readouterr().out
    out = tmp_path / "needles.jsonl"
    assert main("generate", ["--out", str(out), "--num", "3", "--length", "800"]) == 0
    capsys.readouterr()
    assert main("fetch", []) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("THUDM/LongBench", "Zefan-Cai/KVCache-Factory", "karpathy/char-rnn"))
    assert "ORIGIN" not in printed
    for text in ([], ["--text", str(tmp_path / "gone.txt")]):
        with pytest.raises(SystemExit):
            main("generate", ["--out", str(out), "--haystack", "text", *text])
        assert "haystack text needs --text FILE" in capsys.readouterr().err
    samples = read_prompts(out)
    assert len(samples) == 3
    assert all(sample.answers[0] in sample.prompt for sample in samples)


def test_answers_are_a_string_or_a_list(tmp_path):
    path = tmp_path / "mine.jsonl"
    for text, expected in (('"42"', ("42",)), ('["a", 7]', ("a", "7")), ("null", ()), ("[]", ())):
        path.write_text(f'{{"prompt": "p", "answers": {text}}}\n')
        assert read_prompts(path)[0].answers == expected
    for text in ("5", '{"a": 1}', "[[1]]"):
        path.write_text(f'{{"prompt": "p"}}\n{{"prompt": "p", "answers": {text}}}\n')
        with pytest.raises(ValueError, match=r"mine.jsonl, line 2: 'answers' must be a string or a list"):
            read_prompts(path)
    (tmp_path / "dataset2prompt.json").write_text('{"qasper": "{context} {input}"}')
    (tmp_path / "dataset2maxlen.json").write_text('{"qasper": 5}')
    path.write_text('{"context": "c", "input": "i", "answers": "one answer", "dataset": "qasper"}\n')
    assert read_longbench(path, config=tmp_path)[0].answers == ("one answer",)
    path.write_text('{"context": 1, "input": "i", "answers": "a", "dataset": "qasper"}\n')
    with pytest.raises(ValueError, match="line 1: 'context' must be text, found int"):
        read_longbench(path, config=tmp_path)
    (tmp_path / "dataset2maxlen.json").write_text("[")
    with pytest.raises(ValueError, match=r"dataset2maxlen.json: not JSON"):
        read_longbench(path, config=tmp_path)


def test_own_prompts_name_the_file(tmp_path):
    for name in ("mine.txt", "mine.jsonl"):
        with pytest.raises(ValueError, match=rf"{name} does not exist; give a text file or a .jsonl"):
            read_prompts(tmp_path / name)
        (tmp_path / name).write_bytes(b"ab\xff\xfe")
        with pytest.raises(ValueError, match=rf"{name} is no UTF-8 text \(byte 2\)"):
            read_prompts(tmp_path / name)
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        read_prompts(tmp_path)
    (tmp_path / "mine.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"mine.jsonl holds no row; there is nothing to run"):
        read_prompts(tmp_path / "mine.jsonl")
