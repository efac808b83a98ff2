"""`scorefield data`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from scorefield.cli.common import Command, print_json


@dataclass(frozen=True)
class DataCommand(Command):
    """Say what is in the data: counts, shapes, range, duplicates, what would be skipped and why, σ_data and σ_max."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """As for `train`."""

    size: int | None = None
    """The side that images would be scaled and cropped to."""

    layout: str | None = None
    """channels-first, channels-last or no-channels, for arrays that can be read in more than one way."""

    condition: str | None = None
    """Numbers to condition on: columns, keys of a .npz file, or FILE.npy, as for `train`."""

    skip_bad: bool = False
    """Go on where more than 1 % of the files cannot be read."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Open, measure, print."""
        from scorefield.data import open_data, report
        from scorefield.training.options import DataConfig

        DataConfig(size=self.size, layout=self.layout)  # checks them, whatever the data
        reading = {"size": self.size, "condition": self.condition, "layout": self.layout, "skip_bad": self.skip_bad}
        found = report(open_data(self.data, **reading))  # type: ignore[arg-type]
        print(found.to_text())
        if self.json:
            print_json(found.to_dict())
        return 0
