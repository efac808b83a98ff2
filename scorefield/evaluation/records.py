"""What a run folder tells about itself, read with every part allowed to be missing, cut off or of an older kind.

A report must be possible for the run that just crashed, so nothing here raises because of what a file holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from scorefield.errors import UsageError
from scorefield.evaluation.evaluate import Evaluation

PICTURE_LIMIT = 16 << 20
HEADER_LIMIT = 16 << 20


@dataclass(frozen=True)
class RunRecord:
    """A run folder: its configuration, logs, pictures and figures."""

    folder: Path

    @classmethod
    def of(cls, folder: Path) -> RunRecord:
        """The record of an existing folder.

        Raises:
            UsageError: there is no such folder.
        """
        if not folder.is_dir():
            raise UsageError(f"no run folder at '{folder}'; give the folder that `scorefield train … --out` wrote")
        return cls(folder)

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """config.json, or nothing."""
        return _json_object(self.folder / "config.json")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """run.json: what was decided, where it says so, else what was asked for, and on what machine; or nothing."""
        whole = _json_object(self.folder / "run.json")
        resolved = whole.get("resolved")
        return {"machine": whole.get("machine"), **resolved} if isinstance(resolved, dict) else whole

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """data.json, the data report, or nothing."""
        return _json_object(self.folder / "data.json")

    @cached_property
    def log(self) -> Sequence[Mapping[str, Any]]:
        """The rows of log.jsonl that have a step."""
        return list(_json_lines(self.folder / "log.jsonl"))

    @cached_property
    def timing(self) -> Sequence[Mapping[str, Any]]:
        """The rows of timing.jsonl that have a step."""
        return list(_json_lines(self.folder / "timing.jsonl"))

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """evaluation.json, if it is there and complete."""
        try:
            return Evaluation.from_json(_json_object(self.folder / "evaluation.json"))
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    @cached_property
    def samples(self) -> bytes | None:
        """The newest grid of samples, by step: samples/step-N.png, else samples.png."""
        pictures = sorted((self.folder / "samples").glob("step-*.png"), key=_step_of)
        return next(filter(None, map(_picture, [*reversed(pictures), self.folder / "samples.png"])), None)

    @cached_property
    def film(self) -> bytes | None:
        """film.gif."""
        return _picture(self.folder / "film.gif")

    @cached_property
    def parameters(self) -> int | None:
        """How many numbers model.safetensors holds, from its header alone."""
        try:
            with (self.folder / "model.safetensors").open("rb") as file:
                header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), HEADER_LIMIT)))
            return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    @property
    def steps(self) -> int:
        """The last step in the log or of a checkpoint: a short run may end before its first line is due."""
        logged = int(self.log[-1]["step"]) if self.log else 0
        return max([logged, *map(_step_of, (self.folder / "checkpoints").glob("step-*"))])

    @property
    def examples(self) -> int | None:
        """How many training examples have been seen, repeats counted."""
        seen = numbers(self.log, "examples")
        return int(seen[-1]) if seen and math.isfinite(seen[-1]) else None

    @property
    def seconds(self) -> float | None:
        """The training time in all; a clock that starts anew, after a resume, adds to it."""
        clock = [value for value in numbers(self.timing, "seconds") if math.isfinite(value)]
        if not clock:
            return None
        return clock[0] + sum(b - a if b >= a else b for a, b in pairwise(clock))


def numbers(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One number a row; NaN where there is none."""
    return [as_number(row.get(key)) for row in rows]


def as_number(value: Any) -> float:
    """A JSON value as a float, NaN where it is no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects as ("network.width", 64)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _json_object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            # The last line of a run that was killed may be cut off.
            continue
        if isinstance(row, dict) and math.isfinite(as_number(row.get("step"))):
            yield row


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def _picture(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if 0 < path.stat().st_size <= PICTURE_LIMIT else None
    except OSError:
        return None
