"""The report: complete in one file, safe against what names and files hold, and there for every broken run."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from scorefield.errors import UsageError
from scorefield.evaluation.evaluate import evaluate
from scorefield.evaluation.pictures import gif, png
from scorefield.evaluation.records import RunRecord
from scorefield.evaluation.report import report_html

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "hr", "link", "input", "path", "rect"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every tag that opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_lines(path: Path, rows: list[dict[str, Any]], end: str = "") -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with every part, and hostile words wherever words can be."""
    folder = tmp_path / EVIL
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"preset": EVIL, "network": {"width": 64, EVIL: [1, True, None]}}))
    (folder / "data.json").write_text(json.dumps({"source": EVIL, "count": 60000, "shape": [1, 28, 28]}))
    rows = [{"step": i, "loss": 1 / i, "examples": 64 * i, "loss_by_noise": [0.5, None, 0.25]} for i in range(1, 101)]
    write_lines(folder / "log.jsonl", rows, end='{"step": 10')
    write_lines(
        folder / "timing.jsonl",
        [{"step": 10 * i, "seconds": 60.0 * i, "examples_per_second": 85.0} for i in range(1, 11)],
    )
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    (folder / "samples" / "step-9.png").write_bytes(png(images))
    (folder / "samples" / "step-100.png").write_bytes(png(255 - images))
    (folder / "film.gif").write_bytes(gif([images, images]))
    points = torch.randn(80, 2)
    (folder / "evaluation.json").write_text(json.dumps(evaluate(points[:30], points, points[30:]).as_json()))
    weights = {"a": torch.zeros(3, 4), "b": torch.zeros(())}
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(weights))
    return folder


def test_the_page_says_what_was_trained_how_and_how_good_it_is(run: Path):
    page = Page(report_html(run))
    assert not page.open
    for words in (
        "100 steps",
        "10.0 min",
        "6\u202f400",
        "60000",
        "network.width",
        "Fréchet distance",
        "Coverage".lower(),
    ):
        assert words in page.text, words
    assert "Parameters13" in page.text
    assert [tag for tag, _ in page.elements].count("svg") == 3
    assert [tag for tag, _ in page.elements].count("img") == 2


def test_hostile_words_show_as_text(run: Path):
    """In the run's name, the configuration's keys and values, and the data's source."""
    html = report_html(run)
    assert EVIL not in html
    page = Page(html)
    assert page.text.count(EVIL) >= 4
    assert not [tag for tag, attributes in page.elements if any(name.startswith("on") for name in attributes)]


def test_the_page_loads_nothing(run: Path):
    page = Page(report_html(run))
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object", "a"}
        assert str(attributes.get("src", "data:")).startswith("data:image/") or "src" not in attributes
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in str(policy)


def test_the_newest_samples_are_shown(run: Path):
    """By step, not by name: step-9 sorts after step-100."""
    assert RunRecord.of(run).samples == (run / "samples" / "step-100.png").read_bytes()


@pytest.mark.parametrize(
    "missing",
    ["config.json", "data.json", "log.jsonl", "timing.jsonl", "film.gif", "evaluation.json", "model.safetensors"],
)
def test_any_part_may_be_missing_or_rubbish(run: Path, missing: str):
    (run / missing).unlink()
    assert not Page(report_html(run)).open
    for rubbish in (b"", b"\xff\xfe\x00", b"[1, 2]", b'{"samples": 3, "figures": []}', b"[" * 5000):
        (run / missing).write_bytes(rubbish)
        assert not Page(report_html(run)).open


def test_an_empty_folder_has_a_report(tmp_path: Path):
    assert "No step has been logged yet" in Page(report_html(tmp_path)).text


def test_losses_of_every_kind_are_drawn(run: Path):
    """Negative, missing, NaN, infinite and textual losses leave gaps, not exceptions."""
    losses: list[Any] = [1.0, -1.0, math.nan, math.inf, None, "x", True, 1e308]
    write_lines(
        run / "log.jsonl", [{"step": i, "loss": loss, "loss_by_noise": [loss]} for i, loss in enumerate(losses)]
    )
    assert not Page(report_html(run)).open


def test_a_run_that_ended_before_its_first_line_knows_its_steps(run: Path):
    (run / "log.jsonl").unlink()
    (run / "checkpoints" / "step-7").mkdir(parents=True)
    assert "7 steps" in Page(report_html(run)).text


def test_a_long_configuration_is_folded_but_complete(run: Path):
    """Nothing of what was asked for is left out, and what people look for first is outside the fold."""
    settings = {f"k{i}": i for i in range(30)} | {"optimiser": {"learning_rate": 0.002}}
    (run / "run.json").write_text(json.dumps(settings))
    html = report_html(run)
    fold = html.index("<details>")
    assert html.index("optimiser.learning_rate") < fold < html.index("k29")


def test_what_was_decided_is_shown_once(run: Path):
    settings = {"requested": {"batch": None}, "resolved": {"batch": 61}, "machine": {"threads": 2}}
    (run / "run.json").write_text(json.dumps(settings))
    text = Page(report_html(run)).text
    assert "batch61" in text
    assert "machine.threads2" in text
    assert "requested" not in text


def test_the_time_of_a_resumed_run_adds_up(run: Path):
    """The clock starts anew with each session: 30 + 20 s, not 20 s."""
    write_lines(run / "timing.jsonl", [{"step": i, "seconds": s} for i, s in enumerate([10.0, 30.0, 5.0, 20.0])])
    assert RunRecord.of(run).seconds == 50.0


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="scorefield train"):
        report_html(tmp_path / "nowhere")
