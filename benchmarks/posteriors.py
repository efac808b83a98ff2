r"""Draws of every restoration method beside the exact posterior, in closed-form worlds of 2, 16 and 64 dimensions.

Data are mixtures of four Gaussians with smooth covariances, measured by a mask, averages of pairs, a blur and a random projection, at
σ_y of 0, 0.05, 0.3 and 1 times the data's deviation. Every method asks the exact denoiser 100 times (particles each as often). An error
is the sliced Wasserstein distance to exact draws as a multiple of that between two equally large sets of exact draws: 1 is the floor.

    python benchmarks/posteriors.py                         the tables of docs/methods/inverse-problems.md, and its picture
    python benchmarks/posteriors.py --tune momentmatching   variants of one method, on other seeds than those reported
    .venv-peers/bin/python benchmarks/posteriors_peers.py   azula's methods on the same worlds, before the first
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from scorefield.denoisers import GaussianMixture
from scorefield.editing.exact import conditioned
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import (
    DDRM,
    DPS,
    METHODS,
    DiffPIR,
    MomentMatching,
    PiGDM,
    RePaint,
    Replacement,
    TwistedSMC,
)
from scorefield.editing.operators import Mask, Projection, Separable
from scorefield.editing.posterior import Method, Posterior
from scorefield.paths import VP
from scorefield.records import kind_of
from scorefield.samplers import Ancestral, LogSNR
from scorefield.streams import SampleStreams

SHAPES: dict[int, tuple[int, ...]] = {2: (2,), 16: (16,), 64: (1, 8, 8)}
NOISES = (0.0, 0.05, 0.3, 1.0)
OPERATORS = ("half", "pairs", "blur", "projection")
STEPS, DRAWS = 100, 512
PATH = VP()


@dataclass(frozen=True)
class Cell:
    """One posterior: a world, a measurement, and its exact law."""

    dimension: int
    operator: str
    noise: float
    world: GaussianMixture
    measurement: Measurement
    exact: GaussianMixture
    data_std: float

    def error(self, samples: Tensor, seed: int = 5) -> dict[str, float]:
        """Sliced distance over its floor, and errors of mean and covariance in deviations of the data, each beside its floor."""
        reference = self._draw(len(samples), seed)
        pairs = [(self._draw(len(samples), 20 + k), self._draw(len(samples), 40 + k)) for k in range(6)]
        found = _apart(samples.flatten(1).double(), reference, self.data_std)
        floors = [_apart(one, other, self.data_std) for one, other in pairs]
        return {
            key: value / (sum(floor[key] for floor in floors) / len(floors)) if key == "sliced" else value
            for key, value in found.items()
        } | {f"{key}_floor": sum(floor[key] for floor in floors) / len(floors) for key in ("mean", "covariance")}

    def _draw(self, count: int, seed: int) -> Tensor:
        return self.exact.draw(count, torch.Generator().manual_seed(seed))


def _apart(one: Tensor, other: Tensor, scale: float) -> dict[str, float]:
    directions = torch.randn(one.shape[1], 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    sliced = ((one @ directions).sort(0).values - (other @ directions).sort(0).values).abs().mean()
    mean = (one.mean(0) - other.mean(0)).norm() / math.sqrt(one.shape[1])
    covariance = (one.mT.cov() - other.mT.cov()).norm() / math.sqrt(one.shape[1])
    return {"sliced": float(sliced) / scale, "mean": float(mean) / scale, "covariance": float(covariance) / scale**2}


def world(dimension: int, seed: int = 0) -> GaussianMixture:
    """Four Gaussians whose covariances fall off with the distance of two places, each with a length and strength of its own."""
    generator = torch.Generator().manual_seed(seed + dimension)
    sides = [side for side in SHAPES[dimension] if side > 1]
    places = torch.cartesian_prod(*(torch.arange(side).double() for side in sides)).view(dimension, -1)
    distances = torch.cdist(places, places)
    covariances = torch.stack(
        [0.12 * (0.5 + 0.35 * k) * torch.exp(-distances / (0.8 + k)) for k in range(4)]
    ) + 1e-3 * torch.eye(dimension, dtype=torch.float64)
    smooth = torch.linalg.cholesky(torch.exp(-distances / 3.0))
    means = 0.6 * (smooth @ torch.randn(dimension, 4, generator=generator, dtype=torch.float64)).mT
    return GaussianMixture(PATH, torch.tensor([0.4, 0.3, 0.2, 0.1]).double(), means, covariances)


def cells(dimension: int, seed: int = 0) -> Iterator[Cell]:
    """Every operator at every noise, of data drawn for each."""
    mixture, shape = world(dimension, seed), SHAPES[dimension]
    data_std = float(mixture.draw(4000, torch.Generator().manual_seed(9)).std())
    half = torch.zeros(dimension, dtype=torch.bool)
    half[: dimension // 2] = True
    operators = {
        "half": Mask(half.view(shape)),
        "pairs": Separable.downsampling(shape, 2),
        "blur": Separable.blur(shape, 1.0 if dimension > 2 else 0.5),
        "projection": Projection(shape, dimension // 2, seed=seed),
    }
    for number, (name, noise) in enumerate(itertools.product(OPERATORS, NOISES)):
        if (name, noise) == ("blur", 0.0):  # all is known then: the posterior is a point
            continue
        generator = torch.Generator().manual_seed(1000 * seed + number)
        x = mixture.draw(1, generator).view(1, *shape)
        clean = operators[name](x)
        y = clean + noise * data_std * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        measurement = Measurement(operators[name], y if name != "half" else y * half.view(shape), noise * data_std)
        yield Cell(dimension, name, noise, mixture, measurement, conditioned(mixture, measurement), data_std)


@dataclass(frozen=True)
class Entry:
    """A method in a setting, with the steps that make the same number of evaluations."""

    name: str
    make: Callable[[float], Method]
    steps: int = STEPS
    products: int = 0
    particles: int = 1

    @property
    def price(self) -> int:
        """Evaluations a sample, a vector-Jacobian product being two."""
        return STEPS * self.particles * (1 + 2 * self.products)

    @property
    def draws(self) -> int:
        """Samples, fewer where particles make them dear."""
        return max(128, DRAWS // max(1, self.particles // 4))


def draw(entry: Entry, cell: Cell, grid: Any = None, seed: int = 3) -> Tensor:
    """Samples by the method's own sampler."""
    method, count = entry.make(cell.data_std), entry.draws
    shape = SHAPES[cell.dimension]
    streams = SampleStreams.numbered(seed, 0, count)
    sampler = method.sampler(Ancestral(steps=entry.steps, grid=grid or LogSNR()))
    with torch.no_grad():
        return sampler.sample(
            Posterior(cell.world, cell.measurement, method),
            streams.normal(torch.zeros(count, *shape, dtype=torch.float64), 0),
            generator=streams,
        )


def _twisted(particles: int, data_std: float) -> Method:
    return TwistedSMC(particles, data_std=data_std, at_once=2048)


def entries() -> list[Entry]:
    """What is reported: each method as it is by default, with the data's deviation given."""
    twisted = [Entry(f"TwistedSMC, K = {k}", partial(_twisted, k), STEPS, 2, k) for k in (4, 16, 64)]
    return [
        Entry("Replacement", lambda _: Replacement()),
        Entry("RePaint", lambda _: RePaint(), STEPS // RePaint().repeats),
        Entry("DDRM", lambda _: DDRM()),
        Entry("DiffPIR", lambda _: DiffPIR()),
        Entry("DPS", lambda std: DPS(data_std=std), products=1),
        Entry("ΠGDM", PiGDM, products=1),
        Entry("MomentMatching, 1", lambda std: MomentMatching(1, std), products=1),
        Entry("MomentMatching, 2", lambda std: MomentMatching(2, std), products=2),
        *twisted,
    ]


def variants(name: str) -> list[Entry]:
    """Settings of one method to choose its defaults from."""
    return [
        Entry(", ".join(f"{key}={value}" for key, value in options.items()), partial(_set, name, options), steps)
        for options, steps in _options(name)
    ]


def _set(name: str, options: dict[str, Any], data_std: float) -> Method:
    kind = next(kind for kind in METHODS if kind_of(kind) == name)
    known = {"data_std": data_std} if any(one.name == "data_std" for one in fields(kind)) else {}
    return kind(**options, **known)


def _options(name: str) -> Iterator[tuple[dict[str, Any], int]]:
    tried: dict[str, dict[str, tuple[Any, ...]]] = {
        "dps": {"zeta": (0.3, 1.0, 1.5, 2.0, 3.0, 5.0)},
        "ddrm": {"eta": (0.5, 0.7, 0.85, 1.0), "is_reverse": (False, True)},
        "diffpir": {"weight": (0.3, 1.0, 3.0, 8.0), "zeta": (0.1, 0.3, 0.6, 1.0)},
        "momentmatching": {"iterations": (1, 2, 3)},
        "repaint": {"jump": (1, 2, 5), "repeats": (1, 2, 3, 4)},
        "twistedsmc": {"proposal": ("pigdm", "momentmatching"), "iterations": (1, 2, 4)},
    }
    for values in itertools.product(*tried[name].values()):
        options = dict(zip(tried[name], values, strict=True))
        yield options, STEPS // options.get("repeats", 1)


def mean_log(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def tune(name: str, dimensions: list[int]) -> None:
    """Print each variant's error by dimension and noise."""
    for entry in variants(name):
        line = []
        for dimension in dimensions:
            found: dict[float, list[float]] = {}
            for cell in cells(dimension, seed=77):
                found.setdefault(cell.noise, []).append(cell.error(draw(entry, cell))["sliced"])
            line.append(" ".join(f"{mean_log(values):6.2f}" for values in found.values()))
        print(f"{name} {entry.name:28} " + " | ".join(line), flush=True)


def measure(dimension: int, methods: list[str], world: int = 0) -> list[dict[str, Any]]:
    """Every reported method, or those of these names, in every cell of a world."""
    rows = []
    for entry in entries():
        if entry.name not in (methods or [entry.name]):
            continue
        start = time.perf_counter()
        for cell in cells(dimension, world):
            error = cell.error(draw(entry, cell))
            rows.append(_row("scorefield", entry.name, entry.price, cell, error) | {"world": world})
        print(f"{dimension:3} {entry.name:22} {time.perf_counter() - start:6.1f} s", file=sys.stderr, flush=True)
    return rows


def _read(file: File) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text())) if file.exists() else []


def _replace(file: File, rows: list[dict[str, Any]]) -> None:
    """These rows in the place of those of the same methods, dimensions and worlds, in the table's order."""
    order = [entry.name for entry in entries()]
    new = {_place(row) for row in rows}
    kept = [row for row in _read(file) if _place(row) not in new]
    file.write_text(json.dumps(sorted(kept + rows, key=lambda row: (row["dimension"], order.index(row["method"])))))


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["method"], row["dimension"], row.get("world", 0)


def _row(library: str, name: str, price: int, cell: Cell, error: dict[str, float]) -> dict[str, Any]:
    place = {"dimension": cell.dimension, "operator": cell.operator, "noise": cell.noise}
    return {"library": library, "method": name, "price": price, **place, **error}


def table(rows: list[dict[str, Any]]) -> str:
    """Errors by dimension and noise, geometric means over the operators."""
    dimensions = sorted({row["dimension"] for row in rows})
    columns = [(dimension, noise) for dimension in dimensions for noise in NOISES]
    head = "| method | price | " + " | ".join(f"{d}-D, {n:g}" for d, n in columns) + " |"
    lines = [head, "|---" * (len(columns) + 2) + "|"]
    for library, name, price in dict.fromkeys((row["library"], row["method"], row["price"]) for row in rows):
        of = [row for row in rows if (row["library"], row["method"], row["price"]) == (library, name, price)]
        values = []
        for d, n in columns:
            cells_of = [row["sliced"] for row in of if (row["dimension"], row["noise"]) == (d, n)]
            values.append(f"{mean_log(cells_of):.2f}" if cells_of else "—")
        lines.append(
            f"| {'' if library == 'scorefield' else library + ' '}{name} | {price} | " + " | ".join(values) + " |"
        )
    return "\n".join(lines)


def scatter(rows: list[dict[str, Any]]) -> str:
    """Geometric means over operators and worlds, and their standard errors by the worlds' own means."""
    columns = sorted({(row["dimension"], row["noise"]) for row in rows})
    lines = ["| method | " + " | ".join(f"{d}-D, {n:g}" for d, n in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in sorted({row["method"] for row in rows}, key=[entry.name for entry in entries()].index):
        values = []
        for place in columns:
            of: dict[int, list[float]] = {}
            for row in rows:
                if row["method"] == name and (row["dimension"], row["noise"]) == place:
                    of.setdefault(row["world"], []).append(row["sliced"])
            logs = torch.tensor([math.log(mean_log(one)) for one in of.values()])
            centre, error = float(logs.mean().exp()), float(logs.var(correction=0)) / max(1, len(logs) - 1)
            values.append(f"{centre:.2f} ± {centre * math.sqrt(error):.2f}")
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def moments(rows: list[dict[str, Any]]) -> str:
    """Errors of mean and covariance, means over operators and noises, by dimension."""
    dimensions = sorted({row["dimension"] for row in rows})
    lines = ["| method | " + " | ".join(f"{d}-D mean | {d}-D covariance" for d in dimensions) + " |"]
    lines.append("|---" * (2 * len(dimensions) + 1) + "|")
    for name in dict.fromkeys(row["method"] for row in rows if row["library"] == "scorefield"):
        values = []
        for d in dimensions:
            of = [row for row in rows if (row["method"], row["dimension"], row["library"]) == (name, d, "scorefield")]
            values += [_beside_floor(of, key) if of else "—" for key in ("mean", "covariance")]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _beside_floor(rows: list[dict[str, Any]], key: str) -> str:
    found, floor = (sum(row[name] for row in rows) / len(rows) for name in (key, f"{key}_floor"))
    return f"{found:.3f} ({floor:.3f})"


def picture(file: File) -> None:
    """Draws of every method beside exact ones, of a mixture in the plane whose sum is measured."""
    import matplotlib.pyplot as plt

    cell = next(cell for cell in cells(2) if (cell.operator, cell.noise) == ("pairs", 0.3))
    shown = [entry for entry in entries() if entry.particles in (1, 16)]
    figure, axes = plt.subplots(2, 5, figsize=(11, 4.6), sharex=True, sharey=True)
    prior = cell.world.draw(800, torch.Generator().manual_seed(1))
    exact = cell.exact.draw(DRAWS, torch.Generator().manual_seed(2))
    draws = [("exact", exact), *((entry.name, draw(entry, cell)) for entry in shown)]
    for axis, (name, points) in zip(axes.flat, draws, strict=True):
        axis.scatter(*prior.T, s=2, color="0.85")
        axis.scatter(*points.T, s=3, color="tab:blue" if name != "exact" else "black")
        axis.set_title(name if name == "exact" else f"{name}: {cell.error(points)['sliced']:.1f}", fontsize=9)
        axis.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> int:
    """Measure, print, and leave what was measured in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=File, default=File("runs/posteriors"))
    parser.add_argument("--dimensions", type=int, nargs="+", default=sorted(SHAPES))
    parser.add_argument(
        "--methods", nargs="+", default=[], help="these alone, named as in the table; the others' rows are kept"
    )
    parser.add_argument(
        "--worlds", type=int, nargs="+", default=[], help="these worlds instead, into worlds.json, with standard errors"
    )
    parser.add_argument("--tune")
    parser.add_argument("--picture", type=File)
    parser.add_argument("--again", action="store_true", help="print the tables of what was measured before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.tune:
        tune(options.tune, options.dimensions)
        return 0
    if options.picture:
        picture(options.picture)
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.worlds:
        file = options.folder / "worlds.json"
        for dimension, number in itertools.product(() if options.again else options.dimensions, options.worlds):
            _replace(file, measure(dimension, options.methods, number))
        print(scatter(_read(file)))
        return 0
    ours = options.folder / "ours.json"
    for dimension in () if options.again else options.dimensions:
        _replace(ours, measure(dimension, options.methods))
    rows = _read(ours)
    print(table(rows + _read(options.folder / "azula.json")) + "\n\n" + moments(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
