"""What a sampler's own work costs: microseconds per step outside the network, beside diffusers' schedulers.

Every loop asks the same network, which returns a stored answer, at batch 1 of 1×28×28; the network's own call is measured
alone and taken off. Time is the thread's processor time, so that a busy machine does not blur it; loops run in turn,
several rounds, and the median counts. The columns show that a step costs the same however many there are, and the last
lines that memory does not grow with them.

    OMP_NUM_THREADS=1 python benchmarks/sampler_overhead.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scorefield.denoisers import NetworkDenoiser, Noise, Preconditioned
from scorefield.paths import EDM, Discrete
from scorefield.samplers import (
    DDIM,
    Ancestral,
    Churn,
    DPMSolver,
    DPMSolverMultistep,
    Heun,
    Leading,
    Restart,
    RungeKutta,
    Sampler,
    UniPC,
)
from scorefield.streams import SampleStreams

SHAPE = (1, 1, 28, 28)
ANSWER = torch.full(SHAPE, 0.1)
LIMIT = 60.0
LIMITED = (
    "scorefield DDIM, EDM's path",
    "scorefield DPM++ 2M",
    "scorefield UniPC-3, corrected",
    "scorefield UniPC-3, noise",
)

SEVERAL: dict[str, type[Sampler]] = {
    "scorefield Heun, per evaluation": Heun,
    "scorefield RK4, per evaluation": RungeKutta,
    "scorefield DPM-Solver-3, per eval.": DPMSolver,
    "scorefield churn, per evaluation": Churn,
    "scorefield Restart, per evaluation": Restart,
}
"""Samplers of more than one evaluation a step."""

Loop = Callable[[int], Tensor]
"""A drawing of so many steps."""


def network(*_: Tensor) -> Tensor:
    """The dummy: everything around it is overhead."""
    return ANSWER


def ours(sampler: type[Sampler], denoiser: NetworkDenoiser, streams: bool = False, **settings: Any) -> Loop:
    """A sampler of scorefield; with `streams`, noise that belongs to the sample."""

    def loop(steps: int) -> Tensor:
        generator = SampleStreams.numbered(0, 0, 1) if streams else torch.Generator().manual_seed(0)
        return sampler(steps=steps, **settings).sample(denoiser, torch.ones(SHAPE), generator=generator)

    return loop


def theirs(name: str) -> Loop:
    """A scheduler of diffusers in the loop of its own documentation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        scheduler = getattr(diffusers, name)()

    def loop(steps: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        options = {"generator": generator} if name in ("DDIMScheduler", "DDPMScheduler") else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler.set_timesteps(steps)
        x = torch.ones(SHAPE)
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(output, t, x, **options).prev_sample
        return x

    return loop


def loops() -> dict[str, Loop]:
    """Everything that is measured, by name."""
    edm = NetworkDenoiser(network, EDM(), Preconditioned())
    ddpm = NetworkDenoiser(network, Discrete(), Noise(label="time"))
    return {
        "scorefield DDIM, EDM's path": ours(DDIM, edm),
        "scorefield DDIM, DDPM's path": ours(DDIM, ddpm, grid=Leading()),
        **{name: ours(sampler, edm) for name, sampler in SEVERAL.items()},
        "scorefield DDPM": ours(Ancestral, ddpm),
        "scorefield DDPM, noise by sample": ours(Ancestral, ddpm, streams=True),
        "scorefield DPM++ 2M": ours(DPMSolverMultistep, ddpm),
        "scorefield UniPC-3, corrected": ours(UniPC, ddpm, order=3),
        "scorefield UniPC-3, noise": ours(UniPC, ddpm, order=3, prediction="noise"),
        "diffusers DDIM": theirs("DDIMScheduler"),
        "diffusers DDPM": theirs("DDPMScheduler"),
        "diffusers Euler": theirs("EulerDiscreteScheduler"),
        "diffusers DPM++ 2M": theirs("DPMSolverMultistepScheduler"),
        "diffusers UniPC": theirs("UniPCMultistepScheduler"),
    }


def seconds(loop: Loop, steps: int) -> float:
    """The processor time of one drawing."""
    start = time.thread_time()
    loop(steps)
    return time.thread_time() - start


def network_alone(calls: int = 10_000) -> float:
    """Microseconds of one call of the dummy."""
    x, label = torch.ones(SHAPE), torch.ones(1)
    start = time.thread_time()
    for _ in range(calls):
        network(x, label)
    return 1e6 * (time.thread_time() - start) / calls


def per_step(steps: int, rounds: int) -> dict[str, float]:
    """Microseconds per evaluation outside the network of every loop; a round that is not counted comes first."""
    measured = loops()
    taken = [{name: seconds(loop, steps) for name, loop in measured.items()} for _ in range(rounds + 1)][1:]
    evaluations = {name: asked(name, steps) for name in measured}
    alone = network_alone()
    return {name: 1e6 * statistics.median(one[name] for one in taken) / evaluations[name] - alone for name in measured}


def asked(name: str, steps: int) -> int:
    """How many evaluations a loop of so many steps takes."""
    sampler = SEVERAL.get(name)
    return steps if sampler is None else sampler(steps=steps).evaluations() or steps  # type: ignore[call-arg]


def peak_growth(loop: Loop) -> int:
    """By how many KiB a drawing of 1000 steps raises the peak of memory over one of 10."""
    loop(10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loop(1000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def cost_table(rounds: int) -> dict[str, dict[str, float]]:
    """Print and return microseconds per step for 10, 100 and 1000 steps, and the peers' ratios to ours."""
    columns = {str(steps): per_step(steps, rounds) for steps in (10, 100, 1000)}
    found = {name: {steps: column[name] for steps, column in columns.items()} for name in loops()}
    print(f"{'µs per step outside the network':34s}{'10 steps':>10s}{'100':>8s}{'1000':>8s}")
    for name, costs in found.items():
        print(f"{name:34s}{costs['10']:10.1f}{costs['100']:8.1f}{costs['1000']:8.1f}")
    return found


def ratios(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Print and return how many times as much the peers take, at 100 steps."""
    pairs = {
        "diffusers DDIM / scorefield DDIM": ("diffusers DDIM", "scorefield DDIM, DDPM's path"),
        "diffusers DDPM / scorefield DDPM": ("diffusers DDPM", "scorefield DDPM"),
        "diffusers Euler / scorefield DDIM": ("diffusers Euler", "scorefield DDIM, EDM's path"),
        "diffusers / scorefield DPM++ 2M": ("diffusers DPM++ 2M", "scorefield DPM++ 2M"),
        "diffusers UniPC-2 / our UniPC-3": ("diffusers UniPC", "scorefield UniPC-3, corrected"),
    }
    result = {label: found[peer]["100"] / found[own]["100"] for label, (peer, own) in pairs.items()}
    for label, ratio in result.items():
        print(f"{label:34s}{ratio:10.1f} ×")
    return result


def main() -> int:
    """Measure, print, and fail where scorefield's DDIM or a multistep sampler takes more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object at the end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        growth = {name: peak_growth(loop) for name, loop in loops().items()}
        costs = cost_table(options.rounds)
    compared = ratios(costs)
    print("peak memory of 1000 steps over 10:", ", ".join(f"{name} {kib} KiB" for name, kib in growth.items()))
    worst = max(cost for name in LIMITED for cost in costs[name].values())
    print(f"worst of scorefield's DDIM, DPM++ 2M and UniPC: {worst:.1f} µs per step (limit {LIMIT:g})")
    if options.json:
        print(json.dumps({"microseconds": costs, "ratios": compared, "peak_growth_kib": growth}))
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
