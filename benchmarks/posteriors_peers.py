"""azula's restoration methods on the worlds of `posteriors.py`: runs in an environment of its own (`make peers`).

DPS divides by the residual's norm over the whole batch, so that its strengths go higher than for one sample. Each gets the same denoiser, 100 evaluations, and the same noise levels, uniform in log σ/α; its parameters are its defaults, and the best of
a small search in hindsight for each dimension and noise. Those that know no noise are given what they take.

    .venv-peers/bin/python benchmarks/posteriors_peers.py
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any

import torch
from posteriors import DRAWS, PATH, STEPS, Cell, _row, cells, mean_log
from torch import Tensor

from scorefield.editing.exact import as_matrix
from scorefield.samplers import LogSNR

_NOISE = 1e-3
"""Where a method divides by the noise, and there is none: its deviation."""


@dataclass(frozen=True)
class Setting:
    """One of azula's methods with its options; the first of a method's are its defaults."""

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    sampler: str = "DDIM"
    steps: int = STEPS
    products: int = 0

    @property
    def price(self) -> int:
        """Evaluations a sample, a vector-Jacobian product being two."""
        return STEPS * (1 + 2 * self.products)


def settings() -> Iterator[Setting]:
    """Defaults first."""
    for zeta in (1.0, 0.1, 0.3, 3.0, 10.0, 30.0, 100.0):
        yield Setting("DPS", {"zeta": zeta}, products=1)
    for eta in (0.0, 1.0):
        yield Setting("PGDM", {"eta": eta}, products=1)
    for sampler in ("DDIM", "DDPM"):
        yield Setting("MMPS", {"iterations": 1}, sampler, products=2)
    yield Setting("MMPS", {"iterations": 2}, "DDPM", products=3)
    for sampler in ("DDIM", "DDPM"):
        yield Setting("TMP", {}, sampler, products=2)
    for weight in (10.0, 3.0, 1.0, 0.3):
        for iterations in (1, 4):
            yield Setting("DiffPIR", {"lmbda": weight, "iterations": iterations}, "DDPM")
    yield Setting("DiffPIR", {"lmbda": 1.0, "iterations": 4}, "DDIM")
    for repeats in (3, 2, 1, 10):
        yield Setting("RePaint", {"iterations": repeats, "eta": 1.0}, steps=STEPS // repeats)
    yield Setting("TDS", products=1)


def run(setting: Setting, cell: Cell) -> Tensor:
    """azula's draws."""
    torch.manual_seed(3)
    dimension = cell.dimension
    times = LogSNR().times(PATH, setting.steps)
    levels = torch.tensor([(PATH.alpha(t), PATH.sigma(t)) for t in times[:-1]] + [(1.0, 1e-5)]).double()
    denoiser = _denoiser(cell, times, levels)
    matrix = as_matrix(cell.measurement)
    y = cell.measurement.y.flatten().double()
    if cell.operator == "half":
        kept = matrix.abs().sum(1) > 0
        matrix, y = matrix[kept], y[kept]
    y = y.expand(DRAWS, -1)
    noise = max(cell.measurement.noise, _NOISE * cell.data_std)
    options = {"steps": setting.steps, "silent": True, "dtype": torch.float64}
    x = torch.randn(DRAWS, dimension, dtype=torch.float64)

    def forward(v: Tensor) -> Tensor:
        return v @ matrix.mT

    if setting.method in ("MMPS", "TMP", "DiffPIR"):
        sample = importlib.import_module("azula.sample")
        covariance = importlib.import_module("azula.linalg.covariance").IsotropicCovariance(
            torch.tensor(noise**2).double()
        )
        given = covariance if setting.method == "MMPS" else noise**2
        wrapped = azula_class(setting.method)(denoiser, y, forward, given, **setting.options)
        return getattr(sample, f"{setting.sampler}Sampler")(wrapped, **options)(x)
    if setting.method == "RePaint":
        mask = torch.zeros(dimension, dtype=torch.bool)
        mask[: dimension // 2] = True
        full = cell.measurement.y.flatten().double().expand(DRAWS, -1)
        return azula_class("RePaint")(denoiser, full, mask, **setting.options, **options)(x)
    if setting.method == "TDS":
        gram = (matrix @ matrix.mT).diagonal()

        def twist(x_hat: Tensor, level: Tensor) -> Tensor:
            spread = level**2 * cell.data_std**2 / (cell.data_std**2 + level**2)
            return -0.5 * (y - forward(x_hat)) ** 2 / (noise**2 + spread * gram)

        return azula_class("TDS")(denoiser, twist, **options)(x)
    inverse = torch.linalg.pinv(matrix, rtol=1e-3)
    extra = (lambda v: v @ inverse.mT,) if setting.method == "PGDM" else ()
    return azula_class(setting.method)(denoiser, y, forward, *extra, **setting.options, **options)(x)


def azula_class(name: str) -> Any:
    """A method's class by its short name."""
    module = importlib.import_module(f"azula.guidance.{'tmpd' if name == 'TMP' else name.lower()}")
    return getattr(module, f"{name}Denoiser" if name in ("MMPS", "TMP", "DiffPIR") else f"{name}Sampler")


def _denoiser(cell: Cell, times: tuple[float, ...], levels: Tensor) -> Any:
    """The exact denoiser as azula's, on the grid's levels at uniform times."""
    base = importlib.import_module("azula.denoise")

    def place(t: Tensor) -> Tensor:
        return ((1.0 - t) * (len(levels) - 1)).round().long()

    class Asked(base.Denoiser):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = lambda t: tuple(levels[place(t)].unbind(-1))

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            return base.DiracPosterior(cell.world(x_t, times[int(place(t))]).x0)

    return Asked()


def surveyed(dimension: int, methods: list[str], ask: Callable[[Setting, Cell], Tensor]) -> list[dict[str, Any]]:
    """Rows of each method's defaults, and of its best setting for each noise."""
    found: dict[str, list[tuple[Setting, list[tuple[Cell, dict[str, float]]]]]] = {}
    for setting in settings():
        if methods and setting.method not in methods:
            continue
        start = time.perf_counter()
        results = []
        for cell in cells(dimension):
            if setting.method == "RePaint" and cell.operator != "half":
                continue
            error = cell.error(ask(setting, cell))
            results.append((cell, {key: value if math.isfinite(value) else 1e6 for key, value in error.items()}))
        found.setdefault(setting.method, []).append((setting, results))
        print(f"{dimension:3} {setting} {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    rows = []
    for method, tried in found.items():
        setting, results = tried[0]
        rows += [_row("azula", f"{method}, defaults", setting.price, cell, error) for cell, error in results]
        for noise in sorted({cell.noise for cell, _ in results}) if len(tried) > 1 else ():
            setting, results = min(
                tried, key=lambda one: mean_log([error["sliced"] for cell, error in one[1] if cell.noise == noise])
            )
            rows += [
                _row("azula", f"{method}, best", tried[0][0].price, cell, error)
                for cell, error in results
                if cell.noise == noise
            ]
    return rows


def main() -> int:
    """Survey, and leave `azula.json` in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=File, default=File("runs/posteriors"))
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--methods", nargs="+", default=[], help="these alone; the others' rows are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / "azula.json"
    before = json.loads(file.read_text()) if options.methods and file.exists() else []
    rows = [row for dimension in options.dimensions for row in surveyed(dimension, options.methods, run)]
    measured = {row["method"] for row in rows}
    file.write_text(json.dumps([*rows, *(row for row in before if row["method"] not in measured)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
