from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.support.paths import ROOT
from tests.support.runs import septet

from septet.launch.messages import tidy_message
from septet.launch.methods import METHODS

TOY = "tests/support/toy.yaml"


def test_methods_list_starts_each_line_with_the_slug(capsys):
    assert septet("methods", "list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(METHODS)


def test_methods_list_json(capsys):
    assert septet("methods", "list", "--json") == 0
    assert {row["slug"] for row in json.loads(capsys.readouterr().out)} == set(METHODS)


@pytest.mark.parametrize(
    "command", ["methods list", "fit --help", "test -h", "report --help", "doctor --help", "data --help", "--help"]
)
def test_light_commands_import_nothing_heavy(command):
    code = (
        "import sys; from septet.launch.cli import main; "
        f"main({command.split()!r}); "
        "bad = {'torch', 'lightning', 'numpy', 'rich'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, timeout=60)


def test_help_names_every_command(capsys):
    assert septet("--help") == 0
    text = capsys.readouterr().out
    for word in "fit validate test predict methods data launch logs report assign bench doctor".split():
        assert f"  {word} " in text


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["fitt"], ["'fitt'", "did you mean 'fit'"]),
        (["methods", "show", "cne"], ["'cne'", "did you mean 'cne_n'"]),
        (["data", "verify", "temporalgraph"], ["did you mean 'temporal_graph'"]),
        (["data", "ingest", "coco"], ["septet data ingest scenarios"]),
        (["bench", "cnen"], ["did you mean 'cne_n'"]),
        (["fit", "-c", "configs/cne_n/smok.yaml"], ["did you mean 'configs/cne_n/smoke.yaml'"]),
        (["fit", "-c"], ["-c needs a value"]),
        (["fit", "-c", TOY, "--model.init_args.lrr", "3"], ["unknown key 'lrr'", "did you mean 'lr'"]),
        (["fit", "-c", TOY, "--trainr.max_epochs=3"], ["'trainr.max_epochs'", "did you mean 'trainer"]),
        (["fit", "-c", TOY, "--model.init_args.lr", "abc"], ["lr", "float", "abc"]),
        (["fit", "-c", TOY, "--data.init_args.batch_sise=3"], ["did you mean 'batch_size'"]),
        (["fit", "--model", "CNENN"], ["'CNENN'", "did you mean 'CNEN'"]),
        (["fit", "-c", TOY, "--model", "tests.support.toy.Toyy"], ["tests.support.toy.Toyy", "no attribute"]),
        (["test", "-c", TOY], ["needs weights", "--ckpt_path none"]),
        (["test", "-c", TOY, "--ckpt_path", "bset"], ["'bset'", "did you mean 'best'"]),
        (["test", "--run", "user/toy"], ["no run 'user/toy'"]),
        (["fit", "-c", TOY, "--name", "a/b"], ["'a/b'", "letters"]),
        (["fit", "-c", TOY, "--data.init_args.fail", "times unsorted; sort by time"], ["times unsorted; sort by time"]),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(arguments, fragments, capsys, runs):
    assert septet(*arguments) == 2
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith("septet: ")
    for fragment in fragments:
        assert fragment in text
    assert not list(runs.rglob("record.json")), "wrong input must leave no run behind"


def test_typo_in_a_configuration_file(tmp_path, capsys, runs):
    bad = tmp_path / "bad.yaml"
    bad.write_text("seed_everything: 0\ntrainer: {max_epochs: 1, acelerator: cpu}\nmodel: tests.support.toy.Toy\n")
    assert septet("fit", "-c", str(bad)) == 2
    assert "did you mean 'trainer.accelerator'" in capsys.readouterr().err


def test_print_config_works_without_data(capsys, monkeypatch):
    assert septet("fit", "-c", TOY, "--print_config") == 0
    assert "tests.support.toy.Toy" in capsys.readouterr().out


def test_version(capsys):
    assert septet("--version") == 0
    assert capsys.readouterr().out.startswith("septet 0.")


def test_doctor_json(capsys):
    assert septet("doctor", "--json") == 0
    found = {f["name"]: f["state"] for f in json.loads(capsys.readouterr().out)}
    assert found["torch/torchvision"] == "ok"


def test_doctor_names_a_wrong_pair(monkeypatch):
    from septet.launch import doctor

    monkeypatch.setattr(doctor, "_version", {"torch": "2.14.1", "torchvision": "0.28.0"}.get)
    finding = doctor._pair()[0]
    assert finding.state == "broken"
    assert "torchvision==0.29" in finding.remedy


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ("trainer: {max_epochs: 1", "is no valid YAML"),
        ("- a\n- b\n", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_a_broken_configuration_file_is_named(content, fragment, tmp_path, capsys):
    bad = tmp_path / "bad.yaml"
    bad.write_text(content)
    assert septet("fit", "-c", str(bad)) == 2
    text = capsys.readouterr().err
    assert str(bad) in text
    assert fragment in text


def test_a_corrupt_ledger_is_named_before_training(runs, capsys):
    runs.mkdir()
    (runs / "ledger.sqlite").write_text("garbage, not a database")
    assert septet("fit", "-c", TOY) == 2
    assert "ledger.sqlite is no SQLite database" in capsys.readouterr().err
    assert not list(runs.rglob("record.json"))
    assert septet("report") == 2


def test_a_class_typo_and_a_wrong_type(capsys, runs):
    assert septet("fit", "-c", TOY, "--model", "septet.lightning_modules.cne_n.CNEM") == 2
    assert "did you mean 'septet.lightning_modules.cne_n.CNEN'" in capsys.readouterr().err
    assert septet("fit", "-c", TOY, "--trainer.max_epochs=abc") == 2
    assert "trainer.max_epochs" in capsys.readouterr().err


def test_the_sentence_of_a_class_is_dug_out_of_a_unions_report():
    text = (
        "Parser key 'trainer.strategy': Does not validate against any of the Union subtypes. Subtypes: (<class 'str'>) "
        "Errors: - Expected a <class 'str'> - copies is -1; it must not be negative Given value type: <class 'X'>"
    )
    assert tidy_message(text) == "copies is -1; it must not be negative"


def test_a_class_inside_a_class_speaks_for_itself():
    inner = "Does not validate against any of the Union subtypes Subtypes: [A, B] Errors: - 3 heads do not divide"
    text = f"Does not validate against any of the Union subtypes Subtypes: [C] Errors: - {inner} - Expected a B"
    assert tidy_message(text) == "3 heads do not divide"


def test_only_the_first_process_of_a_machine_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert septet("fitt") == 2
    assert capsys.readouterr().err == ""
