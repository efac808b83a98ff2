"""How exact the likelihoods are where the truth is known: the flow's density, both bounds, probes; a table for each.

    make likelihood

Mixtures of Gaussians in 2 and 64 dimensions (as a run sees them), and integers of 17 and 256 levels from a mixture with diagonal
covariances, whose probabilities are products of error functions.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scorefield.likelihood import Flow, FlowLikelihood, VariationalBound, measure
from scorefield.likelihood.divergence import PROBINGS
from scorefield.paths import EDM, VP, Discrete
from scorefield.streams import SampleStreams
from tests.likelihood.worlds import BITS, Discretised, frame_of, toy
from tests.worlds import seeded


def flow_table(count: int) -> None:
    """Error of the flow's density against the tolerance, with the exact trace."""
    print("## The flow's density, exact trace: error in bits/dim\n")
    print("| world | path | tolerance | evaluations (mean, max) | mean error | mean of absolute errors | largest |")
    print("|---|---|---|---|---|---|---|")
    for name, share in (("mixture-2d", 1), ("mixture-64d", 5)):
        for path in (EDM(), VP()):
            world = toy(name, path)
            x, t = world.draw(count // share, seeded(1)), path.time_of(-math.log(0.002))
            x_t, size = path.alpha(t) * x, x.shape[1]
            for tolerance in (1e-3, 5e-4, 1e-4, 1e-5):
                found = Flow(tolerance).log_density(world, x_t, t, reference=frame_of(world))
                off = (found.log_density - world.log_density(x_t, t)) / size * BITS
                asked = f"{float(found.evaluations.mean()):.0f}, {float(found.evaluations.max()):.0f}"
                figures = (float(off.mean()), float(off.abs().mean()), float(off.abs().max()))
                row = " | ".join(f"{figure:.5f}" for figure in figures)
                print(f"| {name} | {type(path).__name__} | {tolerance:g} | {asked} | {row} |", flush=True)


def probe_table() -> None:
    """Standard deviation of log p over the draws of one probe."""
    print("\n## One probe: standard deviation of the density in bits/dim\n")
    print("| world | along the directions | along the axes, control | along the axes, plain |\n|---|---|---|---|")
    world = toy("mixture-64d", EDM())
    turn = torch.linalg.qr(torch.randn(64, 64, generator=seeded(9), dtype=torch.float64))[0]
    turned = type(world)(world.path, world.weights, world.means @ turn.mT, turn @ world.covariances @ turn.mT)
    for name, each in (("mixture-64d", world), ("the same, turned", turned)):
        x = each.draw(8, seeded(2)).repeat_interleave(48, 0)
        spreads = []
        for probing in PROBINGS:
            flow, streams = Flow(1e-3, 1, probing), SampleStreams.numbered(0, 0, len(x))
            found = flow.log_density(each, x, 0.002, reference=frame_of(each), streams=streams)
            spreads.append(float(found.log_density.view(8, 48).var(1).mean().sqrt()) / 64 * BITS)
        print(f"| {name} | {' | '.join(f'{spread:.3f}' for spread in spreads)} |", flush=True)


def bound_table(count: int) -> None:
    """Bounds and dequantised flows less the exact figure."""
    print("\n## Integers: bits/dim above the exact figure (± error over the noise)\n")
    print(
        "| levels | path | exact | continuous | at λ₀ | T = 8 | 16 | 32 | 64 | 128 |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for levels in (17, 256):
        for path in (EDM(), VP()):
            world = Discretised.of(path, levels, size=8)
            x = world.draw(count)
            exact = world.bits(x)
            tight = measure(VariationalBound(terms=128), world.subject, x, repeats=4)
            end = tight.settings["end"]
            chains = (measure(VariationalBound(steps=T, end=end), world.subject, x) for T in (8, 16, 32, 64, 128))
            steps = " | ".join(f"{found.value - exact:.3f}" for found in chains)
            gap = f"{tight.value - exact:.4f} ± {tight.noise_error:.4f}"
            print(f"| {levels} | {type(path).__name__} | {exact:.4f} | {gap} | {end:.2f} | {steps} |", flush=True)
        _chain_row(levels, count)
    print("\n| levels | dequantisation | K = 1 | 5 | 20 | at λ₀ | evaluations |\n|---|---|---|---|---|---|---|")
    for levels in (17, 256):
        world = Discretised.of(EDM(), levels, size=8)
        x = world.draw(count // 4)
        exact, end = world.bits(x), -math.log(2.0 / (levels - 1) / 2.0)
        for name in ("uniform", "truncated-normal", "variational"):
            found = [measure(FlowLikelihood(5e-4, 0, name, K, end), world.subject, x, repeats=2) for K in (1, 5, 20)]
            gaps = " | ".join(f"{one.value - exact:.4f} ± {one.noise_error:.4f}" for one in found)
            print(f"| {levels} | {name} | {gaps} | {end:.2f} | {found[0].evaluations[0]:.0f} |", flush=True)


def _chain_row(levels: int, count: int) -> None:
    """DDPM's own chain of 1000 steps, and the same estimated from 32 of them."""
    world = Discretised.of(Discrete(), levels, size=8)
    x = world.draw(count // 4)
    exact = world.bits(x)
    whole, some = (measure(VariationalBound(terms), world.subject, x, repeats=2) for terms in (None, 32))
    figures = f"{whole.value - exact:.3f} ± {whole.noise_error:.3f}"
    part = f"{some.value - exact:.3f} ± {some.noise_error:.3f}"
    print(
        f"| {levels} | DDPM's 1000 steps | {exact:.4f} | all: {figures}; 32 of them: {part} | | | | | | |", flush=True
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="samples of each world")
    count = parser.parse_args().count
    started = time.perf_counter()
    flow_table(count)
    probe_table()
    bound_table(count)
    print(f"\n{count} samples, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
