from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from tests.support.paths import ROOT
from tests.support.runs import newest, septet

from septet.launch.report.collect import Report, Row, collect, paper_table
from septet.launch.report.render import write_report

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
