"""Scripts are byte-stable and equal the checked-in ones; contradictions are named before anything is submitted."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.support.paths import ROOT
from tests.support.runs import septet, septet_process

from septet.launch.slurm import Cluster, Resources, load_cluster, load_resources, render
from septet.launch.slurm.script import with_devices

GOLDEN = ROOT / "tests/golden/slurm"
CLUSTERS = ("default", "gres", "apptainer", "pyxis")
RESOURCES = ("cpu_small", "gpu_1", "gpu_8", "nodes_2")
COMMAND = ["septet", "fit", "-c", "configs/cne_n/smoke.yaml"]
RUN = Path("/data/runs/cne_n/smoke/20260101-000000-abcd")


def _script(cluster: str, resources: str) -> str:
    return render(
        COMMAND, load_cluster(cluster), load_resources(resources), RUN, workdir=Path("/data"), commit="abc123"
    )


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("resources", RESOURCES)
def test_script_equals_the_golden(cluster, resources):
    text = _script(cluster, resources)
    assert text == _script(cluster, resources)
    file = GOLDEN / f"{cluster}-{resources}.sh"
    if os.environ.get("SEPTET_WRITE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()
    assert len(text.splitlines()) < 80
    flags = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert flags == sorted(flags)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_no_timestamp_and_no_bare_ntasks():
    text = _script("default", "nodes_2")
    assert "--ntasks=" not in text
    assert not re.search(r"\d{2}:\d{2}:\d{2} (UTC|20)", text)


@pytest.mark.parametrize(
    ("build", "fragment"),
    [
        (lambda: Resources(nodes=0), "nodes is 0"),
        (lambda: Resources(gpus=-1), "gpus is -1"),
        (lambda: Resources(time="90"), "D-HH:MM:SS"),
        (lambda: Resources(time="1:2:3:4"), "'1:2:3:4'"),
        (lambda: Resources(mem="lots"), "'lots'"),
        (lambda: Resources(signal="HUP"), "'HUP'"),
        (lambda: Cluster(gpu_flag="--gpus"), "'--gpus'"),
        (lambda: Cluster(container="docker"), "'docker'"),
        (lambda: Cluster(container="pyxis"), "needs an image"),
        (lambda: Resources(time="0-24:00:00"), "'0-24:00:00'"),
        (lambda: Resources(time="0-01:60:00"), "'0-01:60:00'"),
        (lambda: Resources(time="00:02:00"), "lead 120 s"),
        (lambda: Cluster(partition="a b;rm"), "no plain name"),
        (lambda: load_resources(None, {"nodes": "abc"}), "nodes 'abc': write a whole number"),
        (lambda: load_resources(None, {"nodes": True}), "nodes True: write a whole number"),
        (lambda: load_resources(None, {"time": 3600}), "in quotes: YAML reads 1:00:00 as a number"),
        (lambda: load_resources(None, {"requeue": "maybe"}), "true or false"),
        (lambda: load_cluster(None, {"setup": 3}), "setup 3: write a list of texts"),
        (lambda: load_cluster("gress"), "did you mean 'gres'"),
        (lambda: load_resources("gpu_1", {"gpu": 2}), "did you mean 'gpus'"),
        (lambda: with_devices(["fit", "--trainer.devices=4"], Resources(gpus=2)), "contradicts the resources"),
        (lambda: with_devices(["fit", "--trainer.num_nodes", "2"], Resources(gpus=2)), "contradicts the resources"),
    ],
)
def test_inconsistencies_are_named(build, fragment):
    with pytest.raises(ValueError, match=re.escape(fragment)):
        build()


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["submit"], "nothing to launch"),
        (["render", "--", "report"], "not 'report'"),
        (["render", "--", "fit", "-c", "tests/support/toy.yaml", "--model.init_args.lrr=1"], "did you mean 'lr'"),
        (["render", "--set", "nodes", "--", "fit", "-c", "tests/support/toy.yaml"], "KEY=VALUE"),
        (["render", "--", "fit", "-c", "configs/trainer/ddp_cpu.yaml", "-c", "tests/support/toy.yaml"], "devices: 2"),
        (["sweep", "nowhere.txt", "--", "fit", "-c", "tests/support/toy.yaml"], "no parameter file"),
        (["sweep", "--", "fit", "-c", "tests/support/toy.yaml"], "nothing to sweep"),
        (["sweep", "--wandb", "x"], "ENTITY/PROJECT/ID"),
        (["sweep", "--wandb", "a/b/c", "--count", "0"], "at least one run"),
        (["sweep", "--wandb", "a/b/c", "--", "fit"], "from the sweep itself"),
        (["render", "--set", "gpus=2", "--", "fit", "-c", "configs/cne_n/smoke.yaml"], "trainer.accelerator: cpu"),
        (["render", "--name", "a b", "--", "fit", "-c", "tests/support/toy.yaml"], "'a b'"),
        (["status", "user/none"], "no run"),
    ],
)
def test_wrong_launches_end_with_one_line(words, fragment, capsys, runs):
    assert septet("launch", *words) == 2
    assert fragment in capsys.readouterr().err


def test_an_unwritable_folder_is_named_before_submission(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEPTET_RUNS", str(tmp_path / "file"))
    assert septet("launch", "submit", "--", "fit", "-c", "tests/support/toy.yaml") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_local_runs_the_identical_script(runs):
    done = septet_process(
        "launch", "local", "--", "fit", "-c", "tests/support/toy.yaml", env={"SEPTET_RUNS": str(runs)}
    )
    assert done.returncode == 0, done.stderr
    (run,) = (runs / "user/toy").iterdir()
    assert (run / "record.json").is_file()
    assert "#SBATCH --requeue" in (run / "slurm/job.sh").read_text()
    assert "epoch 2 done" in done.stdout


def test_logs_sync_lists_and_refuses(runs, capsys):
    assert septet("fit", "-c", "tests/support/toy.yaml") == 0
    assert septet("logs", "sync", "user/toy") == 2
    assert "no offline W&B files" in capsys.readouterr().err


def test_one_text_is_a_list_of_one():
    assert load_cluster(None, {"setup": "module load cuda"}).setup == ("module load cuda",)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("nodes: [1")
    with pytest.raises(ValueError, match="is no YAML"):
        load_resources(str(file))


@pytest.mark.parametrize(
    ("content", "options", "fragment"),
    [
        (b"--a='1\n", [], "line 0 of the sweep"),
        (b"\xff\xfe\x00", [], "is no text file"),
        (b"--seed_everything=1\n--seed_everything=1\n", [], "twice"),
        (b"--seed_everything=1\n", ["--only", "-1"], "numbers from 0 to 0"),
        (b"# nothing\n", [], "holds no line"),
        (b"--seed_everything=1\n--model.init_args.lrr=1\n", [], "did you mean 'lr'"),
    ],
)
def test_wrong_sweep_files_end_with_one_line(content, options, fragment, tmp_path, runs, capsys):
    file = tmp_path / "grid.txt"
    file.write_bytes(content)
    only = [f"--only={options[1]}"] if options else []
    assert septet("launch", "sweep", str(file), *only, "--", "fit", "-c", "tests/support/toy.yaml") == 2
    assert fragment in capsys.readouterr().err
    assert not list(runs.glob("*/*"))


def test_what_a_local_command_refuses_is_shown(runs):
    words = ["launch", "local", "--", "fit", "-c", "tests/support/toy.yaml", "--data.init_args.fail=no such data"]
    done = septet_process(*words, env={"SEPTET_RUNS": str(runs)})
    assert done.returncode == 2
    assert "no such data" in done.stdout


def test_nothing_is_left_when_the_scheduler_refuses(runs, capsys, monkeypatch):
    def refuse(words):
        return subprocess.CompletedProcess(words, 1, "", "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error")

    monkeypatch.setattr("septet.launch.slurm.commands._need", lambda tool: None)
    monkeypatch.setattr("septet.launch.slurm.commands.subprocess.run", lambda words, **_: refuse(words))
    monkeypatch.setattr("septet.launch.slurm.commands.printed_config", lambda words: {})
    for action in ("test", "submit"):
        assert septet("launch", action, "--", "fit", "-c", "tests/support/toy.yaml") == 2
        assert "no scheduler answers sbatch" in capsys.readouterr().err
    assert not list(runs.glob("*"))


def test_a_sweeps_lines_are_parsed_before_submission(runs, tmp_path, capsys):
    file = tmp_path / "grid.txt"
    file.write_text("# two tasks\n--model.init_args.lrr=1\n--model.init_args.lr=1\n")
    assert septet("launch", "sweep", str(file), "--", "fit", "-c", "tests/support/toy.yaml") == 2
    assert "did you mean 'lr'" in capsys.readouterr().err
    assert not runs.exists() or not list(runs.iterdir())


def test_agents_of_a_wandb_sweep_are_one_array(runs, monkeypatch):
    monkeypatch.setattr(
        "septet.launch.slurm.commands._submit", lambda script, run, _: (run / "slurm/jobs.json").write_text("[]") and 0
    )
    assert septet("launch", "sweep", "--wandb", "me/septet/ab12", "--count", "3", "--resources", "cpu_small") == 0
    (run,) = (runs / "sweeps/ab12").iterdir()
    text = (run / "slurm/job.sh").read_text()
    assert "#SBATCH --array=0-2" in text
    assert "#SBATCH --no-requeue" in text
    assert "-m wandb agent --count 1 me/septet/ab12" in text
    assert "--trainer.devices" not in text
    assert (run / "slurm/parameters.txt").read_text() == "\n\n\n"
