"""Restoring held-out pictures by every method: how near one sample and the mean of some come, what it costs; a table a task.

    python benchmarks/restoration.py RUN DATA --tasks mask=half,downsample=4,blur=1.5,grey

Each picture is measured, rounded as a file would be, and restored by some samples. The feature error is the distance of a sample
from its original in the features of a classifier that is fitted on other examples of DATA (where they have labels; random features
else), as a share of the distance between two originals: 1 is no better than another picture.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scorefield import load
from scorefield.data import open_data
from scorefield.editing.methods import METHODS
from scorefield.editing.operators import LinearOperator, Mask, operator_named
from scorefield.editing.posterior import Method
from scorefield.errors import UsageError
from scorefield.evaluation.distances import mean_estimate
from scorefield.evaluation.features import Features, fit_features
from scorefield.model import Model
from scorefield.model_restoration import degraded, restore_each
from scorefield.records import from_plain, kind_of
from scorefield.samplers import DDIM
from scorefield.training.configuration import parse_settings


@dataclass(frozen=True)
class Pictures:
    """Held-out pictures, and what their features are made by."""

    own: np.ndarray
    features: Features
    apart: float

    @classmethod
    def of(cls, model: Model, data: str, count: int, cache: Path | None = None, skip: int = 0) -> Pictures:
        """`count` of DATA after the first `skip`; those that follow are what features are fitted on."""
        dataset = open_data(data)
        others = np.arange(skip + count, min(len(dataset), skip + count + 9000))
        labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[others])
        extractor = fit_features(torch.from_numpy(dataset.batch(others)), labels, cache=cache)
        clean = dataset.batch(range(skip, skip + count))
        rows = extractor.features(torch.from_numpy(clean)).double()
        apart = torch.pdist(rows).mean()
        return cls(model.config.representation.own_layout(clean), extractor, float(apart))


def operator_of(task: str, shape: tuple[int, ...]) -> LinearOperator:
    """An operator by its name; mask=half hides the lower half, mask=centre a square of half the side."""
    if not task.startswith("mask"):
        return operator_named(task, shape)
    keep = torch.ones(shape, dtype=torch.bool)
    height, width = shape[-2:]
    if task.endswith("half"):
        keep[..., height // 2 :, :] = False
    else:
        keep[..., height // 4 : -(height // 4), width // 4 : -(width // 4)] = False
    return Mask(keep)


def method_of(text: str) -> Method:
    """A method by its name and options: dps, or dps:zeta=0.3:repeats=2."""
    name, *options = text.split(":")
    return from_plain(Method, {"kind": name, **parse_settings(options)}, {Method: METHODS})  # type: ignore[type-abstract]


def row(model: Model, pictures: Pictures, task: str, noise: float, name: str, settings: Any) -> str:
    """One line of the table."""
    operator, representation = operator_of(task, model.config.shape), model.config.representation
    ys = degraded(representation, pictures.own, operator, noise=noise)
    started = time.perf_counter()
    found = restore_each(
        model,
        ys,
        operator,
        noise=noise,
        method=method_of(name),
        sampler=DDIM(steps=settings.steps, eta=1.0),
        count=settings.samples,
        batch=settings.batch,
    )
    seconds = (time.perf_counter() - started) / (len(ys) * settings.samples)
    peak = 255.0 if representation.levels is None else representation.levels - 1.0

    def psnr(x: np.ndarray, original: np.ndarray) -> float:
        return 10.0 * math.log10(peak**2 / max(float(((x - original.astype(float)) ** 2).mean()), 1e-9))

    pairs = list(zip(found, pictures.own, strict=True))
    one = mean_estimate(torch.tensor([psnr(each.samples[0].astype(float), x) for each, x in pairs]))
    mean = mean_estimate(torch.tensor([psnr(each.mean, x) for each, x in pairs]))
    first = torch.from_numpy(representation.channels_first(np.stack([each.samples[0] for each in found])))
    originals = torch.from_numpy(representation.channels_first(pictures.own))
    rows, wanted = (pictures.features.features(each).double() for each in (first, originals))
    feature = mean_estimate((rows - wanted).norm(dim=1) / pictures.apart)
    return f"| {name} | {one} | {mean} | {feature} | {found[0].evaluations} | {seconds:.2f} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--tasks", default="mask=half,downsample=4,blur=1.5", help="names with commas between them")
    parser.add_argument(
        "--methods", default="all", help="names with commas between them, such as pigdm,dps:zeta=0.3:repeats=2"
    )
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=100, help="pictures")
    parser.add_argument(
        "--skip", type=int, default=0, help="pictures before them, such as those that settings were chosen on"
    )
    parser.add_argument("--samples", type=int, default=4, help="samples of each")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=400)
    parser.add_argument("--cache", type=Path, help="a file to keep the features in")
    parser.add_argument("--device", default="cpu")
    settings = parser.parse_args()
    model = load(settings.run, device=settings.device)
    pictures = Pictures.of(model, settings.data, settings.count, settings.cache, settings.skip)
    chosen = [kind_of(kind) for kind in METHODS] if settings.methods == "all" else settings.methods.split(",")
    for task in settings.tasks.split(","):
        print(
            f"\n## {task}, σ_y = {settings.noise:g}: {settings.count} pictures, {settings.steps} steps, {settings.device}\n"
        )
        print(
            f"| method | PSNR of a sample | of the mean of {settings.samples} | feature error | evaluations | s a sample |"
        )
        print("|---|---|---|---|---|---|", flush=True)
        for name in chosen:
            try:
                print(row(model, pictures, task, settings.noise, name, settings), flush=True)
            except UsageError as error:
                print(f"| {name} | {error} |", flush=True)


if __name__ == "__main__":
    main()
