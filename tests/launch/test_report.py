from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from tests.support.paths import ROOT
from tests.support.runs import newest, septet

from septet.launch.methods import METHODS
from septet.launch.report.collect import Report, RunPage, collect
from septet.launch.report.compare import compare
from septet.launch.report.render import write_report
from septet.launch.report.tables import Row, leaderboards, paper_table
from septet.launch.runs import create_run, ledger

TOY = "tests/support/toy.yaml"
GOLDEN = ROOT / "tests/golden/report/report.md"


def _record(seed, value, **more):
    return {
        "run_id": f"r{seed}", "name": "uci", "method": "cne_n", "dataset": "uci", "stage": "test", "seed": seed,
        "metrics": {"test/ap": value}, "cost": {"device": "cpu: x"}, "finished": f"2026-01-0{seed + 1}T00:00:00",
        **more,
    }  # fmt: skip


def test_seeds_are_pooled_and_repeats_replace():
    records = [_record(0, 0.5), _record(0, 0.9), _record(1, 0.7)]
    row = next(r for r in paper_table(records, []) if r.metric == "test/ap")
    assert row.ours == "0.8000 ± 0.1414"
    assert row.seeds == "0, 1"
    assert row.date == "2026-01-02"


def test_a_baseline_is_not_set_beside_the_papers_number(monkeypatch):
    entries = [{"dataset": "uci", "metric": "test/ap", "value": 0.9685, "model": "cne_n"}]
    monkeypatch.setattr(sys.modules[paper_table.__module__], "published", lambda slug: entries)
    records = [_record(0, 0.96, model={"name": "cne_n"}), _record(1, 0.76, name="bank", model={"name": "edgebank"})]
    rows = paper_table(records, ["cne_n"])
    assert [(r.paper, r.ours) for r in rows] == [("0.9685", "0.9600"), ("–", "0.7600")]


def test_published_numbers_stand_beside_ours_and_unrun_ones_say_so(monkeypatch):
    entries = [
        {"dataset": "uci", "metric": "test/ap", "value": 96.85, "source": "paper", "config": "cne_n/uci.yaml"},
        {"dataset": "reddit", "metric": "test/ap", "value": 99.22, "source": "paper"},
    ]
    monkeypatch.setattr(sys.modules[paper_table.__module__], "published", lambda slug: entries)
    rows = {r.dataset: r for r in paper_table([_record(0, 0.5)], ["cne_n"])}
    assert (rows["uci"].paper, rows["uci"].ours) == ("96.85", "0.5000")
    assert rows["reddit"].ours == "not run"


def test_markdown_equals_the_golden(tmp_path):
    row = Row("cne_n", "uci", "test/ap", "96.85", "KDD 2024", "0.9650", "0", "cpu", "2026-01-01", "run cne_n/uci")
    write_report(Report(rows=[row], records=[{}], notes={"cne_n": "No edge features."}), tmp_path)
    text = re.sub(r"made .*", "made DATE", (tmp_path / "report.md").read_text())
    assert text == GOLDEN.read_text()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tables: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag == "table":
            self.tables.append(dict(attrs).get("id") or "")


@pytest.fixture
def page(runs):
    assert septet("fit", "-c", TOY) == 0
    assert septet("test", "--run", "user/toy") == 0
    assert septet("report", "user/toy") == 0
    return newest(runs, "user", "toy") / "report/report.html"


def test_page_is_self_contained(page):
    parsed = _Page()
    parsed.feed(page.read_text())
    assert "paper-against-ours" in parsed.tables
    assert len(parsed.images) == 2
    assert all(src.startswith("data:image/png;base64,") for src in parsed.images)


def test_page_in_a_browser(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("SKIPPED: no chromium on this machine")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=3000",
    ]
    probe = page.with_name("probe.html")
    script = (
        "<script>addEventListener('load',()=>{"
        "const b=[...document.images].filter(i=>!i.complete||!i.naturalWidth).length;"
        "document.title='broken='+b+' images='+document.images.length+' rows='+"
        "document.querySelectorAll('#paper-against-ours tbody tr').length})</script>"
    )
    probe.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    done = subprocess.run(
        [browser, *flags, "--enable-logging=stderr", "--dump-dom", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert title.group(1) == "broken=0 images=2 rows=1"
    assert "CONSOLE" not in done.stderr
    shot = tmp_path / "page.png"
    subprocess.run(
        [browser, *flags, f"--screenshot={shot}", "--window-size=400,900", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert shot.stat().st_size > 10_000


def test_a_report_over_the_whole_ledger(page, runs):
    assert septet("report") == 0
    assert "points" in (runs / "report/report.md").read_text()
    assert len(collect([], runs).records) == 2


def test_a_board_ranks_by_the_headline_metric_and_its_direction():
    up, down = {"metric": "val/ap", "mode": "max"}, {"metric": "val/loss", "mode": "min"}
    records = [
        _record(0, 0.7, name="weak", monitor=up), _record(0, 0.9, monitor=up), _record(1, 0.8, monitor=up),
        _record(2, 0.5, name="no headline named"),
        {**_record(3, 0.1, name="a", dataset="x", monitor=down), "metrics": {"test/loss": 2.0, "test/ap": 0.9}},
        {**_record(4, 0.1, name="b", dataset="x", monitor=down), "metrics": {"test/loss": 1.0, "test/ap": 0.1}},
    ]  # fmt: skip
    uci, x = leaderboards(records)
    assert (uci.dataset, uci.metric, uci.better) == ("uci", "test/ap", "higher")
    assert [(p.rank, p.run, p.value, p.seeds) for p in uci.places] == [
        (1, "uci", "0.8500 ± 0.0707", "0, 1"), (2, "weak", "0.7000", "0"),
    ]  # fmt: skip
    assert (x.metric, x.better, [p.run for p in x.places]) == ("test/loss", "lower", ["b", "a"])


def test_deviations_of_metrics_and_other_figures_stay_out_of_the_first_table():
    record = _record(0, 0.7, monitor={"metric": "val/ap", "mode": "max"})
    record["metrics"] |= {"test/ap_std": 0.1, "test/auc": 0.9}
    assert [r.metric for r in paper_table([record], [])] == ["test/ap"]


def _page(tmp_path, name, lr, points):
    records = {"test": {"metrics": {"test/ap": points[-1][1]}, "seed": 0, "cost": {"wall_s": 2}}}
    return RunPage(tmp_path / "user" / name / "r0", records, {"val/ap": points}, [], f"model: {{lr: {lr}, depth: 2}}")


def test_runs_side_by_side(tmp_path):
    pages = [_page(tmp_path, "a", 0.1, [(1, 0.5)]), _page(tmp_path, "b", 0.2, [(1, 0.7)])]
    found = compare(pages)
    assert found.titles == ["user/a/r0", "user/b/r0"]
    assert found.settings == [("model.lr", ["0.1", "0.2"])]
    assert ("test/ap", ["0.5000", "0.7000"]) in found.figures
    assert found.curves == {"val/ap": {"user/a/r0": [(1, 0.5)], "user/b/r0": [(1, 0.7)]}}
    write_report(Report(comparison=found, runs=pages), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| model.lr | 0.1 | 0.2 |" in text
    assert "media/compared-curves.png" in text
    assert (tmp_path / "media/compared-curves.png").stat().st_size > 1000


def test_videos_lie_beside_the_report(tmp_path):
    page = _page(tmp_path, "a", 0.1, [(1, 0.5)])
    source = tmp_path / "a dream.mp4"
    source.write_bytes(b"film")
    write_report(Report(runs=[dataclasses.replace(page, videos=[source])]), tmp_path / "out")
    assert (tmp_path / "out/media/run0-a dream.mp4").read_bytes() == b"film"
    assert "[a dream (video)](media/run0-a%20dream.mp4)" in (tmp_path / "out/report.md").read_text()
    assert 'src="media/run0-a%20dream.mp4"' in (tmp_path / "out/report.html").read_text()
    write_report(Report(runs=[page]), tmp_path / "out")
    assert not list((tmp_path / "out/media").glob("*.mp4")), "of an earlier report"


def test_figures_for_other_programs(tmp_path):
    records = [_record(0, 0.5, model={"name": "cne_n"}), _record(1, None)]
    write_report(Report(records=records), tmp_path)
    with (tmp_path / "results.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(r["run_id"], r["model"], r["metric"], r["value"]) for r in rows] == [
        ("r0", "cne_n", "test/ap", "0.5"), ("r1", "", "test/ap", ""),
    ]  # fmt: skip
    assert json.loads((tmp_path / "results.json").read_text()) == records


def test_the_whole_ledger_names_all_methods(tmp_path):
    assert {r.method for r in collect([], tmp_path).rows} == set(METHODS)


@pytest.fixture
def bare_run(runs):
    run = create_run(runs, "user", "bare", "r1")
    (run / "config.yaml").write_text("model: {lr: 0.1}\n")
    record = {"method": "user", "stage": "test", "status": "finished", "metrics": {"test/ap": 0.5}}
    (run / "record.json").write_text(json.dumps(record))
    ledger(runs).add({"run_id": "r1", "name": "bare", "method": "user", "stage": "test", "metrics": {"test/ap": 0.5}})
    return run


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("record.json", '{"stage": "te'), ("record.json", "[1, 2]"), ("record.json", '{"stage": "test", "metrics": 3}'),
        ("metrics.csv", "step,ap\n1,abc\n"), ("metrics.csv", "\x00\x01"), ("metrics.csv", "ap\n1\n"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_named_and_left_out_of_the_whole_report(file, content, bare_run, capsys):
    (bare_run / file).write_text(content)
    if content != "\x00\x01":
        assert septet("report", "user/bare") == 2
        assert str(bare_run / file) in capsys.readouterr().err
    assert septet("report") == 0
    assert ("left out" in capsys.readouterr().out) == (content != "\x00\x01")


def test_a_damaged_configuration_is_named_in_a_comparison(bare_run, runs, capsys):
    other = create_run(runs, "user", "other", "r2")
    (other / "config.yaml").write_text("model: [1")
    assert septet("report", "user/bare", "user/other") == 2
    assert str(other / "config.yaml") in capsys.readouterr().err


def test_unwritable_and_absent_folders_are_named(bare_run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert septet("report", "user/bare", "--out", str(tmp_path / "file/x")) == 2
    assert "give another --out" in capsys.readouterr().err
    monkeypatch.setenv("SEPTET_RUNS", str(tmp_path / "nowhere"))
    assert septet("report") == 2
    assert "no runs under" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_ledger_file_is_named(runs, capsys):
    runs.mkdir(exist_ok=True)
    (runs / "ledger.sqlite").write_text("")
    assert septet("report") == 2
    assert "is empty; move it away" in capsys.readouterr().err


def test_large_figures_are_whole_numbers():
    from septet.launch.report.tables import shown

    assert [shown(v) for v in (0.12345, 9999.5, 11796480.0, -12000.4)] == [
        "0.1235",
        "9999.5000",
        "11,796,480",
        "-12,000",
    ]
