"""How good pictures are at few evaluations: Fréchet distances of a trained model, drawn by diffusers' schedulers and by ours.

Every drawing begins with the same noise and the same classes. diffusers' schedulers are the settings of `frontier_diffusers`
that come nearest to the model's own flow (as `frontier.py` measured in the cache), some of them at every budget, and the best
of them in Fréchet distance counts. Ours are the default sampler uncalibrated, calibrated and, if the model has been tuned, tuned.

    scorefield calibrate RUN && scorefield tune RUN --evaluations 6
    python benchmarks/few_evaluations.py RUN --cache runs/frontier --name NAME
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import frontier_diffusers
import numpy as np
import torch
from frontier_problems import Counted, Problem
from quality import Images
from torch import Tensor

import scorefield
from scorefield.evaluation.evaluate import Yardstick
from scorefield.evaluation.features import fit_features
from scorefield.samplers import Calibrated

BUDGETS = (4, 6, 8, 10, 15, 20, 25, 35)
SEED = 4321
TRIED = 3


def nearest_settings(cache: File, name: str, budget: int) -> list[str]:
    """The diffusers settings that came nearest to the flow of the model at a budget, or at the nearest measured one."""
    rows = json.loads((cache / f"peers_diffusers_{name}.json").read_text())["rows"]
    rows = [row for row in rows if row["rmse"] is not None and not np.isnan(row["rmse"])]
    there = min({row["budget"] for row in rows}, key=lambda known: abs(known - budget))
    ranked = sorted((row for row in rows if row["budget"] == there), key=lambda row: row["rmse"])
    return [row["name"] for row in ranked[:TRIED]]


def in_batches(draw: Callable[[Problem], Tensor], problem: Problem, size: int = 250) -> Tensor:
    """Draw all of a problem's noises, some at a time."""
    parts = []
    for start in range(0, len(problem.x_T), size):
        part = slice(start, start + size)
        condition = None if problem.condition is None else problem.condition[part]
        piece = Problem(problem.name, problem.denoiser, problem.x_T[part], problem.x_0[part], condition)
        with torch.no_grad():
            parts.append(draw(piece))
    return torch.cat(parts)


def by_peer(setting: Any, budget: int) -> Callable[[Problem], Tensor]:
    """A scheduler of diffusers in its loop."""
    return lambda problem: frontier_diffusers.run(problem, Counted(problem.denoiser), setting, budget)


def by_ours(sampler: Calibrated) -> Callable[[Problem], Tensor]:
    """The default sampler."""
    return lambda problem: sampler.sample(problem.denoiser, problem.x_T, condition=problem.condition)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a model trained on Fashion-MNIST")
    parser.add_argument("--name", default=None, help="what frontier.py called it; the run's folder by default")
    parser.add_argument("--cache", type=File, default=File("runs/frontier"), help="of frontier.py")
    parser.add_argument("--data", type=File, default=File("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=File, default=File("runs/few-evaluations"), help="of results.json")
    parser.add_argument("--classifier", type=File, default=File("runs/quality/cache/fashion-mnist.safetensors"))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Draw, measure and print."""
    settings = arguments()
    torch.set_num_threads(settings.threads)
    name = settings.name or File(settings.run).name
    images = Images.read(settings.data)
    extractor = fit_features(images.train, images.train_labels, cache=settings.classifier)
    yardstick = Yardstick(images.train, extractor)
    model = scorefield.load(settings.run)
    noise, labels = model.noise(settings.samples, seed=SEED), model.labels(SEED, 0, settings.samples)
    problem = Problem(name, model.denoiser, noise, noise.double(), labels)
    known = {setting.name: setting for setting in frontier_diffusers.SETTINGS}
    rows: list[dict[str, Any]] = []

    def measure(library: str, sampler: str, budget: int, draw: Callable[[Problem], Tensor]) -> None:
        pictures = model.config.representation.from_model(in_batches(draw, problem).float())
        figure = yardstick.measure(torch.from_numpy(pictures)[:, None]).figures["frechet"]
        rows.append(
            {
                "library": library,
                "sampler": sampler,
                "evaluations": budget,
                "frechet": figure.value,
                "error": figure.standard_error,
            }
        )
        print(f"{budget:3d}  {library:10s} {sampler:40s} {figure.value:7.3f} ± {figure.standard_error:.3f}", flush=True)

    floor = yardstick.floor(images.test, settings.samples).figures["frechet"]
    print(f"floor {floor.value:.3f} ± {floor.standard_error:.3f}, {settings.samples} samples", flush=True)
    for budget in settings.budgets:
        measure("scorefield", "uncalibrated", budget, by_ours(Calibrated(budget)))
        if model.calibration is not None:
            measure("scorefield", "calibrated", budget, by_ours(Calibrated(budget, calibration=model.calibration)))
        for setting in nearest_settings(settings.cache, name, budget):
            measure("diffusers", setting, budget, by_peer(known[setting], budget))
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "results.json").write_text(json.dumps({"floor": floor.value, "rows": rows}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
