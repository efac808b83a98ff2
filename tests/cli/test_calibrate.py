"""`scorefield calibrate` and `tune`: what they print, write, keep and refuse, and the calibration that ends a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import scorefield as sf
from tests.cli.worlds import MLP, SHORT, Answer, call, settings

QUICK = ("--pilots", 16, "--rounds", 0)


@pytest.fixture
def run(point_run: Path, tmp_path: Path) -> Path:
    """A run of one's own, without a calibration."""
    return Path(shutil.copytree(point_run, tmp_path / "mine"))


def last(answer: Answer) -> Any:
    """The JSON object that ends standard output."""
    assert answer.code == 0, answer.text
    return json.loads(answer.out.splitlines()[-1])


def budgets(run: Path) -> list[int]:
    """What a run has plans for."""
    calibration = sf.load(run).calibration
    return [] if calibration is None else [plan.evaluations for plan in calibration.plans]


def test_plans_are_printed_kept_and_used(run: Path, tmp_path: Path) -> None:
    """A table whose rows are not the file's, or a file that sampling does not read, would be for nothing."""
    answer = call("calibrate", run, "--evaluations", "5,8", *QUICK, "--json")
    found = last(answer)
    rows = answer.out.splitlines()[:-1]
    assert rows[0].split() == ["evaluations", "uncalibrated", "calibrated"]
    assert [int(row.split()[0]) for row in rows[1:]] == [plan["evaluations"] for plan in found["plans"]] == budgets(run)
    assert all(plan["calibrated"] <= plan["uncalibrated"] for plan in found["plans"])
    before = sf.load(run, calibrated=False).sample(3, sampler=sf.Calibrated(8))
    assert (sf.load(run).sample(3, sampler=sf.Calibrated(8)) != before).any()
    drawn = last(call("sample", run, "-n", 3, "--steps", 9, "--out", tmp_path / "x.npz", "--json"))
    assert drawn["evaluations"] == max(budgets(run))


def test_some_budgets_leave_the_other_plans_alone(run: Path) -> None:
    """A second call for one budget must not cost what the first has found."""
    call("calibrate", run, "--evaluations", "5,8", *QUICK)
    first = budgets(run)
    assert call("calibrate", run, "--evaluations", "6", *QUICK).code == 0
    assert set(first) <= set(budgets(run))
    assert call("tune", run, "--evaluations", "6", *QUICK).code == 0
    assert set(first) <= set(budgets(run))


def test_tuning_prints_draws_and_keeps(run: Path) -> None:
    """Before and after of every budget, a picture of them, and never a worse plan."""
    found = last(call("tune", run, "--evaluations", "4,6", "--pilots", 16, "--rounds", 1, "--json"))
    assert [gain["evaluations"] for gain in found["gains"]] == [4, 6]
    assert all(gain["after"] <= gain["before"] for gain in found["gains"])
    assert all(gain["kept"] is (gain["after"] < gain["before"]) for gain in found["gains"])
    assert (run / "tuning.svg").read_text().startswith("<svg")


def test_training_ends_with_a_calibration_and_the_same_command_makes_a_missing_one(
    points: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped between its last step and its calibration must get it by being called again; `calibrate=false` leaves it out."""
    monkeypatch.setattr("scorefield.samplers.calibration.calibrate.BUDGETS", (5,))
    monkeypatch.setattr("scorefield.samplers.calibration.calibrate.pilot_count", lambda _: 16)
    out, words = tmp_path / "run", settings(MLP, SHORT)
    assert call("train", points, "--out", out, *words).code == 0
    assert not (out / "calibration.json").exists()
    again = [*words, "--set", "calibrate=true"]
    assert call("train", points, "--out", out, *again).code == 0
    kept = (out / "calibration.json").read_bytes()
    assert call("train", points, "--out", out, *again).code == 0
    assert (out / "calibration.json").read_bytes() == kept


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calibrate", "--evaluations", "1"], "2 to 50 evaluations"),
        (["calibrate", "--evaluations", "six"], "whole numbers with commas"),
        (["calibrate", "--pilots", "2"], "at least 4 pilots"),
        (["calibrate", "--rounds", "-1"], "between 0 (none) and 1000 rounds"),
        (["calibrate", "--guidance", "2"], "trained without classes"),
        (["tune", "--evaluations", "51"], "2 to 50 evaluations"),
        (["tune", "--rounds", "-1"], "between 0 (none) and 1000 rounds"),
        (["tune", "--plot", "x.png"], "written as .svg"),
        (["tune", "--plot", "/nowhere/at/all/x.svg"], "there is no folder"),
    ],
)
def test_wrong_use_is_refused_with_the_fix_and_prints_no_table(run: Path, words: list[str], said: str) -> None:
    """A head without rows on standard output would be read as a result."""
    answer = call(words[0], run, *words[1:])
    assert answer.code == 2 and said in answer.text, answer.text
    assert answer.out == "" and not (run / "calibration.json").exists()


def test_a_damaged_calibration_is_refused_and_calibrating_mends_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message's own advice must work."""
    monkeypatch.setattr("scorefield.samplers.calibration.calibrate.BUDGETS", (5,))
    (run / "calibration.json").write_text('{"plans": 3}')
    answer = call("sample", run, "-n", 2, "--out", tmp_path / "x.npz")
    assert answer.code == 8 and "calibrate the model again" in answer.text
    assert call("calibrate", run, *QUICK).code == 0
    assert call("sample", run, "-n", 2, "--out", tmp_path / "x.npz").code == 0
