"""`scorefield rate-distortion`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from scorefield.cli.common import Command, load_model, print_json, require_parent, say, set_threads
from scorefield.cli.held_out import HeldOut, held_out
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.coding.rate_distortion import RateDistortion
    from scorefield.likelihood import VariationalBound
    from scorefield.model import Model

_COLUMNS = 10
_PRINTED = 10


@dataclass(frozen=True)
class RateDistortionCommand(Command):
    """Measure rate and distortion of progressive coding along the reverse process: a table, plots and pictures.

    After each step down the chain: how many bits a dimension the receiver has had, and how far x̂₀ still is from the data, as a
    root mean squared error from 0 to 255. The rates end at the bound that `likelihood` measures with the same seed and options.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Data of the kind that the model was trained on, best held out."""

    out: str
    """A folder for table.csv, three plots (.svg) and strip.png; it is made."""

    count: Annotated[int | None, tyro.conf.arg(name="n", aliases=("-n",))] = 500
    """How many examples, drawn by the seed; 0 for all."""

    repeats: int = 2
    """How often each example is measured, with noise of its own."""

    steps: int | None = None
    """How many steps, for a model in continuous time; 100 without it."""

    variance: Literal["small", "large", "learned"] | None = None
    """Of the steps; learned where it is, else small, without it."""

    pictures: int = 8
    """How many examples the strip shows."""

    unconditional: bool = False
    """Measure p(x) under a model of classes or conditions that was trained with some of them dropped."""

    condition: str | None = None
    """FILE.npy with the condition of each example, one row each, where it is no column of DATA."""

    seed: int = 0
    """Seed of the noise and of the choice of examples."""

    batch: int = 256
    """How many rows the network is asked at once."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Measure, print, write."""
        if (self.count or 0) < 0 or self.batch < 1 or self.repeats < 1 or self.pictures < 0:
            raise UsageError("rate-distortion needs -n ≥ 0, --repeats ≥ 1, --batch ≥ 1 and --pictures ≥ 0")
        require_parent(self.out)
        if os.path.lexists(self.out) and not os.path.isdir(self.out):
            raise UsageError(f"--out {self.out}: it is a file; name a folder")
        set_threads(self.threads)
        from scorefield.coding.rate_distortion import rate_distortion
        from scorefield.storage import write_bytes

        model = load_model(self.model, self.device, calibrated=False)
        chosen = held_out(model, self.model, self.data, self.count, self.seed, self.unconditional, self.condition)
        method = self._method(model)
        say(f"measuring {len(chosen.x)} examples")
        found = chosen.measured(model, method, seed=self.seed, repeats=self.repeats, batch=self.batch)
        curve = rate_distortion(found, _scale(model))
        print(_table(curve))
        os.makedirs(self.out, exist_ok=True)
        files = {"table.csv": curve.csv().encode()}
        files |= {name: text.encode() for name, text in _charts(curve).items()}
        if self.pictures and len(model.config.shape) > 1:
            files["strip.png"] = _strip(model, chosen, self.pictures, curve, self.seed)
        for name, content in files.items():
            write_bytes(os.path.join(self.out, name), content)
        say(f"{', '.join(files)} are in {self.out}")
        if self.json:
            rows = [vars(row) for row in curve.rows]
            totals = {"bits_per_dim": curve.total, "decoder": curve.last}
            print_json({"model": self.model, "data": self.data, "of": chosen.what, **totals, "rows": rows})
        return 0

    def _method(self, model: Model) -> VariationalBound:
        from scorefield.likelihood import VariationalBound
        from scorefield.paths import Discrete

        steps = self.steps if isinstance(model.config.path, Discrete) else self.steps or 100
        return VariationalBound(steps=steps, variance=self.variance)


def _scale(model: Model) -> float:
    """From model space to 0 … 255 for integers, to the data's own unit for floats of one scale."""
    representation = model.config.representation
    if representation.levels is not None:
        return 127.5
    return representation.scale[0] if len(representation.scale) == 1 else 1.0


def _table(curve: RateDistortion) -> str:
    """Some rows in the layout of the paper's table 4, and what the exact data cost."""
    head = f"{'reverse time':>12}  {'rate (bits/dim)':>16}  {'distortion (RMSE)':>18}"
    rows = [f"{row.reverse_time:12d}  {row.rate:16.5f}  {row.distortion:18.5f}" for row in curve.every(_PRINTED)]
    return "\n".join([head, *rows, f"{'exact data':>12}  {curve.total:16.5f}  {0.0:18.5f}"])


def _charts(curve: RateDistortion) -> dict[str, str]:
    """Rate over time, distortion over time, distortion over rate."""
    from scorefield.evaluation.charts import Series, line_chart

    times = [row.reverse_time for row in curve.rows]
    rates, errors = [row.rate for row in curve.rows], [row.distortion for row in curve.rows]
    time, rate, error = "reverse steps", "rate (bits/dim)", "distortion (RMSE)"
    wanted: dict[str, tuple[Sequence[float], Sequence[float], str, str]] = {
        "rate.svg": (times, rates, time, rate),
        "distortion.svg": (times, errors, time, error),
        "distortion-rate.svg": (rates, errors, rate, error),
    }
    return {
        name: line_chart([Series(y_label, x, y)], title=f"{y_label} over {x_label}", x_label=x_label, y_label=y_label)
        for name, (x, y, x_label, y_label) in wanted.items()
    }


def _strip(model: Model, chosen: HeldOut, count: int, curve: RateDistortion, seed: int) -> bytes:
    """A row an example: x̂₀ at growing rates, and the example itself."""
    import torch

    from scorefield.evaluation.pictures import png
    from scorefield.model_likelihood import shown_at

    wanted = _evenly_in_quality(curve)
    shown = [shown_at(model, chosen.x[:count], curve.rows[k].log_snr, seed, **chosen.told(count)) for k in wanted]
    columns = [*shown, chosen.x[:count]]
    representation = model.config.representation
    stacked = torch.stack([torch.from_numpy(representation.channels_first(column)) for column in columns], 1)
    return png(stacked.flatten(0, 1), columns=len(columns))


def _evenly_in_quality(curve: RateDistortion) -> list[int]:
    """The rows whose distortions fall in even ratios: most of what the eye sees is said by the first few per cent of the rate."""
    start, end = curve.rows[0].distortion, curve.rows[-1].distortion
    if not 0.0 < end < start:
        return [0, len(curve.rows) - 1]
    targets = [start * (end / start) ** (k / (_COLUMNS - 1)) for k in range(_COLUMNS)]
    return [min(range(len(curve.rows)), key=lambda k: abs(curve.rows[k].distortion - target)) for target in targets]
