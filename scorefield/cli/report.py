"""`scorefield report`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

import tyro

from scorefield.cli.common import Command, print_json, require_parent, say
from scorefield.errors import UsageError


@dataclass(frozen=True)
class ReportCommand(Command):
    """Write the report of a run: one page that says what was trained, how, and how good it is."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder."""

    out: str | None = None
    """Where to; report.html in the run without it."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Read the run, write the page."""
        if not os.path.isdir(self.model):
            raise UsageError(f"no run folder at '{self.model}'; give the folder that `scorefield train … --out` wrote")
        from pathlib import Path

        from scorefield.evaluation.report import report_html
        from scorefield.model_folder import read_config
        from scorefield.storage import write_bytes

        read_config(self.model)
        out = self.out or os.path.join(self.model, "report.html")
        require_parent(out)
        write_bytes(out, report_html(Path(self.model)).encode())
        say(f"the report is in {out}")
        if self.json:
            print_json({"out": out})
        return 0
