"""What an objective is good for: bits per dimension and Fréchet distance of one network after the same time, by objective.

All learn Fashion-MNIST with what `benchmarks/presets.py` lists as shared. The first four walk one chain (1000 steps, cosine) and differ in
the objective alone; `likelihood` is the preset of that name. The bound is of the first test pictures, in the same noise for all,
so that differences between rows are far more certain than each row (they stand with their own error).

    python benchmarks/objectives.py --minutes 2 --threads 1 --network network=unet network.widths=[32,64] network.depths=[1,1]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import torch
from presets import SHARED, drawn, scorefield
from quality import FASHION_MNIST, TRAIN_IMAGES, Images

from scorefield.evaluation.distances import frechet_distance
from scorefield.evaluation.features import fit_features
from scorefield.evaluation.records import RunRecord

TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
CHAIN = ("path.steps=1000",)
OBJECTIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "L_simple": (
        "iddpm",
        (*CHAIN, "objective=denoising", "parameterisation.learned_variance=false", "sampler=ancestral"),
    ),
    "L_hybrid": ("iddpm", CHAIN),
    "L_vlb": ("iddpm", (*CHAIN, "objective=variational")),
    "likelihood-weighted": (
        "iddpm",
        (
            *CHAIN,
            "objective=denoising",
            "objective.weighting=likelihood",
            "objective.times=importancesampled",
            "parameterisation.learned_variance=false",
            "sampler=ancestral",
        ),
    ),
    "likelihood (preset)": ("likelihood", ()),
}


def folder_of(name: str) -> str:
    """A run's folder."""
    return name.split(" (", maxsplit=1)[0].replace("-", "_")


def trained(name: str, settings: argparse.Namespace) -> Path:
    """A run of an objective; a finished one is left as it is."""
    preset, own = OBJECTIVES[name]
    run = settings.out / folder_of(name)
    words = ["train", str(settings.data / TRAIN_IMAGES), "--out", str(run), "--preset", preset]
    words += ["--minutes", f"{settings.minutes:g}", "--threads", str(settings.threads)]
    scorefield(
        [*words, *(word for s in [*SHARED, *settings.network, "data.labels=false", *own] for word in ("--set", s))]
    )
    return run


def bound(run: Path, settings: argparse.Namespace) -> tuple[dict[str, float], np.ndarray]:
    """The bound's figures, and each picture's."""
    table, facts = run.with_suffix(".csv"), run.with_suffix(".bound.json")
    if not facts.exists():
        words = [
            "likelihood",
            str(run),
            str(settings.data / TEST_IMAGES),
            "-n",
            str(settings.pictures),
            "--terms",
            "50",
        ]
        answer = scorefield([*words, "--threads", str(settings.threads), "--per-sample", str(table), "--json"])
        facts.write_text(answer.splitlines()[-1])
    with table.open() as file:
        rows = {int(row["index"]): float(row["bits_per_dim"]) for row in csv.DictReader(file)}
    return json.loads(facts.read_text()), np.array([rows[index] for index in sorted(rows)])


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--network", nargs="*", default=[])
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--cache", type=Path, default=Path("runs/features"))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--samples", type=int, default=500)
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    images = Images.read(settings.data)
    extractor = fit_features(images.train, images.train_labels, cache=settings.cache / "fashion-mnist.safetensors")
    reference = extractor.features(images.train)
    first: np.ndarray | None = None
    print("| objective | steps | bound (bits/dim) | less than L_simple's | Fréchet distance |\n|---|---|---|---|---|")
    for name in OBJECTIVES:
        run = trained(name, settings)
        _, each = bound(run, settings)
        first = each if first is None else first
        apart = each - first
        gain = f"{-apart.mean():.3f} ± {apart.std() / len(apart) ** 0.5:.3f}" if apart.any() else ""
        words = ["sample", str(run), "-n", str(settings.samples), "--out", str(run.with_suffix(".npz"))]
        steps = [] if name.startswith("likelihood (") else ["--steps", "100"]
        samples, _ = drawn([*words, *steps, "--threads", str(settings.threads), "--json"])
        distance = frechet_distance(extractor.features(samples), reference)
        value = f"{each.mean():.3f} ± {each.std() / len(each) ** 0.5:.3f}"
        print(f"| {name} | {RunRecord.of(run).steps:,} | {value} | {gain} | {distance} |", flush=True)


if __name__ == "__main__":
    main()
