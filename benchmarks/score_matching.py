"""Every form of score matching on points in the plane: the field that each learns, what is drawn from it, and its error.

The same network is trained with each objective on the same data, times and weights (λ = σ², log σ uniform). The exact score
is known: the toys are mixtures of Gaussians, or so many of them along a curve that the difference cannot be seen. Writes one page
of pictures a toy and a table.

    python benchmarks/score_matching.py --out docs/images
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scorefield.data.toys import MIXTURES, MOONS_NOISE, RING_RADII, RINGS_NOISE, points
from scorefield.denoisers import (
    Denoiser,
    Energy,
    GaussianMixture,
    NetworkDenoiser,
    NetworkEnergy,
    Preconditioned,
)
from scorefield.networks import MLPSpec
from scorefield.objectives import (
    Denoising,
    Explicit,
    FiniteDifferenceSliced,
    Implicit,
    LogUniform,
    Objective,
    Sliced,
)
from scorefield.paths import EDM
from scorefield.samplers import Heun

PATH = EDM(0.03, 8.0)
SPEC = MLPSpec(width=96, depth=3, embedding=32)
LEVELS = (0.05, 0.2, 0.8, 3.2)
SHOWN = 0.2
TOYS = ("mixture-2d", "moons", "rings")
BATCH = 256
LEARNING_RATE = 6e-3
DRAWN = 1500


def curves(name: str) -> tuple[Tensor, float]:
    """Places evenly spaced on a toy's curves, closer than its noise by far, and that noise's deviation."""
    if name == "moons":
        theta = (torch.arange(150, dtype=torch.float64) + 0.5) * (torch.pi / 150)
        upper = torch.stack([theta.cos(), theta.sin()], 1)
        return torch.cat([upper, float64([1.0, 0.5]) - upper]), MOONS_NOISE
    turns = [torch.arange(70 * r, dtype=torch.float64) * (2.0 * torch.pi / (70 * r)) for r in (1, 2, 3)]
    circles = [r * torch.stack([turn.cos(), turn.sin()], 1) for r, turn in zip(RING_RADII, turns, strict=True)]
    return torch.cat(circles), RINGS_NOISE


def law(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of a toy as a mixture of Gaussians: its own, or many along its curves."""
    if name in MIXTURES:
        own = MIXTURES[name]
        return float64(own.weights), float64(own.means), float64(own.covariances)
    places, noise = curves(name)
    return torch.ones(len(places)), places, noise**2 * torch.eye(2, dtype=torch.float64).expand(len(places), 2, 2)


def float64(numbers: Any) -> Tensor:
    """Numbers as a float64 tensor."""
    return torch.as_tensor(np.asarray(numbers, dtype=np.float64))


@dataclass(frozen=True)
class Toy:
    """Points of standard deviation one, to learn from and to compare with, and the exact denoiser of their law."""

    name: str
    train: Tensor
    test: Tensor
    exact: Denoiser

    @classmethod
    def named(cls, name: str) -> Toy:
        """One of the built-in toys."""
        train, test = (torch.from_numpy(points(name, 20_000, seed)).double() for seed in (0, 1))
        shift, scale = train.mean(0), train.std()
        weights, means, covariances = law(name)
        exact = GaussianMixture(PATH, weights, (means - shift) / scale, covariances / scale**2)
        return cls(name, (train - shift) / scale, (test - shift) / scale, exact)


@dataclass(frozen=True)
class Learned:
    """One way to learn a score, and what came of it."""

    title: str
    denoiser: Denoiser
    seconds: float
    samples: Tensor


def ways(toy: Toy) -> Iterator[tuple[str, Objective, bool]]:
    """(title, objective, whether the network is an energy)."""
    yield "explicit", Explicit(toy.exact), False
    yield "denoising", Denoising(times=LogUniform()), False
    yield "implicit", Implicit(), False
    yield "sliced", Sliced(), False
    yield "finite differences", FiniteDifferenceSliced(), False
    yield "energy, denoising", Denoising(times=LogUniform()), True


def learn(toy: Toy, title: str, objective: Objective, is_energy: bool, steps: int) -> Learned:
    """Train the network for so many steps, its learning rate falling to zero, and draw from it."""
    torch.manual_seed(0)
    network, generator = SPEC.build((2,)), torch.Generator().manual_seed(1)
    denoiser: Denoiser = (
        NetworkEnergy(network, PATH, Energy(sigma_data=1.0))
        if is_energy
        else NetworkDenoiser(network, PATH, Preconditioned(sigma_data=1.0))
    )
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    data, began = toy.train.float(), time.process_time()
    for _ in range(steps):
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        optimiser.zero_grad()
        objective(denoiser, data[chosen], generator=generator).mean().backward()
        optimiser.step()
        schedule.step()
    seconds = time.process_time() - began
    start = PATH.prior_std * torch.randn(DRAWN, 2, generator=generator)
    with torch.no_grad():
        return Learned(title, denoiser, seconds, Heun(steps=18).sample(denoiser, start).double())


def score_error(toy: Toy, denoiser: Denoiser, sigma: float) -> float:
    """σ² E‖s − ∇log p_t‖²/2: 1 is as wrong as no score at all where the score is that of pure noise."""
    x_0 = toy.test[:2000]
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_t = PATH.perturb(x_0, sigma, noise)
    with torch.no_grad():
        gap = denoiser(x_t.float(), sigma).score - toy.exact(x_t, sigma).score
    return float(sigma**2 * gap.square().mean())


def wasserstein(one: Tensor, other: Tensor) -> float:
    """The mean over 64 directions of the Wasserstein-1 distance of the projections."""
    angles = torch.arange(64, dtype=torch.float64) * torch.pi / 64
    onto = torch.stack([angles.cos(), angles.sin()])
    return float(((one @ onto).sort(0).values - (other @ onto).sort(0).values).abs().mean())


def page(toy: Toy, rows: list[Learned], path: Path) -> None:
    """One column each for the truth and every way to learn: the score field above, samples below."""
    columns = [Learned("exact", toy.exact, 0.0, toy.test[:DRAWN]), *rows]
    figure, axes = plt.subplots(2, len(columns), figsize=(2.5 * len(columns), 5.3), layout="constrained")
    reach = 1.02 * float(toy.test.abs().max())
    for column, (upper, lower) in zip(columns, axes.T, strict=True):
        _field(upper, column.denoiser, reach)
        lower.scatter(*column.samples.T, s=2.5, alpha=0.5, color="#20406f", linewidths=0)
        upper.set_title(column.title, fontsize=11)
        for axis in (upper, lower):
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")
    axes[0, 0].set_ylabel(f"score at σ = {SHOWN}")
    axes[1, 0].set_ylabel("data, then samples")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(96, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def _field(axis: Any, denoiser: Denoiser, reach: float) -> None:
    """Streamlines of the score, over its size σ‖s‖."""
    places = torch.linspace(-reach, reach, 61)
    x, y = torch.meshgrid(places, places, indexing="xy")
    with torch.no_grad():
        score = denoiser(torch.stack([x.flatten(), y.flatten()], 1), SHOWN).score.double()
    size = (SHOWN * score.norm(dim=1)).view(61, 61).numpy()
    axis.imshow(
        size, origin="lower", extent=(-reach, reach) * 2, cmap="Blues", vmin=0.0, vmax=6.0, interpolation="bilinear"
    )
    u, v = (score[:, k].view(61, 61).numpy() for k in (0, 1))
    lines = axis.streamplot(
        places.numpy(), places.numpy(), u, v, color="#b5431f", density=0.8, linewidth=0.7, arrowsize=0.6
    )
    lines.lines.set_capstyle("round")


def table(toy: Toy, rows: list[Learned], floor: float) -> list[str]:
    """The toy's lines of the table."""
    lines = []
    for row in rows:
        errors = " | ".join(f"{score_error(toy, row.denoiser, sigma):.4f}" for sigma in LEVELS)
        far = wasserstein(row.samples, toy.test[:DRAWN])
        lines.append(f"| {toy.name} | {row.title} | {errors} | {far:.3f} | {row.seconds:.0f} |")
    return [*lines, f"| {toy.name} | fresh data | " + " | ".join("" for _ in LEVELS) + f" | {floor:.3f} | |"]


def main() -> None:
    """Learn, draw the pages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="where the pages go")
    parser.add_argument("--steps", type=int, default=900, help="training steps each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plt.switch_backend("Agg")
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"| toy | objective | {' | '.join(f'σ = {s}' for s in LEVELS)} | distance | processor seconds |")
    print("|---|---|" + "---|" * (len(LEVELS) + 2))
    for name in TOYS:
        toy = Toy.named(name)
        rows = [learn(toy, *way, options.steps) for way in ways(toy)]
        floor = wasserstein(toy.train[:DRAWN], toy.test[:DRAWN])
        print("\n".join(table(toy, rows, floor)), flush=True)
        page(toy, rows, options.out / f"score-matching-{name}.png")


if __name__ == "__main__":
    main()
