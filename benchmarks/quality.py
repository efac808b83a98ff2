"""Quality for the time: scorefield and diffusers' DDPM, trained equally long on Fashion-MNIST, beside the noise floor.

scorefield is used as a user does, through its command line, with the default preset and sampler. Samples are compared
with the training set in the features of a small classifier trained on it; the floor is what the test set gets in the
same place, several draws of as many images. Settings may be chosen by these figures, since nothing but the floor and
the copying statistic sees the test set.

    python benchmarks/quality.py --minutes 15 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefield.data.idx import read_idx
from scorefield.evaluation.evaluate import Evaluation, Yardstick
from scorefield.evaluation.features import Classifier, fit_features
from scorefield.evaluation.pictures import png
from scorefield.evaluation.records import RunRecord
from scorefield.networks import fastest_dtype
from scorefield.storage import write_bytes

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
TRAIN_IMAGES = "train-images-idx3-ubyte.gz"


@dataclass(frozen=True)
class Images:
    """Fashion-MNIST: 8-bit images (n, 1, 28, 28) and their classes."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @classmethod
    def read(cls, folder: Path) -> Images:
        """The four files of the folder."""
        images = (
            torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz").copy()) for part in ("train", "t10k")
        )
        labels = (
            torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz").copy()) for part in ("train", "t10k")
        )
        (train, test), (train_labels, test_labels) = images, labels
        return cls(train[:, None], train_labels.long(), test[:, None], test_labels.long())


@dataclass(frozen=True)
class Contender:
    """What a trained model drew, and what its training came to."""

    name: str
    samples: Tensor
    steps: int
    examples: int
    training_seconds: float
    sampling_seconds: float
    parameters: int | None

    def facts(self) -> dict[str, Any]:
        """All but the samples, for the results."""
        facts = {key: value for key, value in vars(self).items() if key not in ("samples", "name")}
        return facts | {"examples_per_second": self.examples / self.training_seconds, "samples": len(self.samples)}


def ours(settings: argparse.Namespace) -> Contender:
    """Train and draw by the command line, default preset and sampler."""
    run, drawn = settings.out / "ours", settings.out / "ours.npz"
    common = ["--threads", str(settings.threads)]
    start = time.perf_counter()
    data = str(settings.data / TRAIN_IMAGES)
    _scorefield("train", data, "--out", str(run), "--minutes", str(settings.minutes), *common, *settings.train_with)
    trained = time.perf_counter()
    _scorefield("sample", str(run), "-n", str(settings.samples), "--out", str(drawn), *common, *settings.sample_with)
    sampled = time.perf_counter()
    record = RunRecord.of(run)
    return Contender(
        name="scorefield",
        samples=_first_channel(np.load(drawn, allow_pickle=False)["samples"]),
        steps=record.steps,
        examples=record.examples or 0,
        training_seconds=trained - start,
        sampling_seconds=sampled - trained,
        parameters=record.parameters,
    )


def _scorefield(*arguments: str) -> None:
    print("+ scorefield", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "scorefield", *arguments], check=True)


def _first_channel(samples: np.ndarray) -> Tensor:
    """Grey images come as (n, H, W)."""
    return torch.from_numpy(samples)[:, None] if samples.ndim == 3 else torch.from_numpy(samples).movedim(-1, 1)


def peer(settings: argparse.Namespace, images: Images) -> Contender:
    """Train and draw with diffusers for the same wall time."""
    import peers

    labels = images.train_labels if settings.peer_classes else None
    dtype = fastest_dtype(torch.device("cpu")) if settings.peer_precision == "auto" else torch.float32
    run = peers.train(images.train, labels, seconds=60 * settings.minutes, dtype=dtype, report=_progress)
    start = time.perf_counter()
    classes = _drawn_classes(labels, settings.samples) if labels is not None else None
    samples = peers.sample(run.network, classes, settings.samples)
    return Contender(
        name="diffusers" if settings.peer_classes else "diffusers, no classes",
        samples=samples,
        steps=run.steps,
        examples=run.examples,
        training_seconds=run.seconds,
        sampling_seconds=time.perf_counter() - start,
        parameters=run.parameters,
    )


def _drawn_classes(labels: Tensor, count: int) -> Tensor:
    """Classes as frequent as the data's, drawn from the data's own labels."""
    return labels[torch.randint(len(labels), (count,), generator=torch.Generator().manual_seed(1))]


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def measure(contender: Contender, yardstick: Yardstick, floor: Any, out: Path) -> dict[str, Any]:
    """The figures of a contender; its grid of samples goes to the folder."""
    slug = contender.name.split(",")[0]
    write_bytes(out / f"{slug}.png", png(contender.samples[:100], columns=10))
    evaluation = yardstick.evaluate(contender.samples, floor)
    return contender.facts() | {"evaluation": evaluation.as_json()}


def table(results: dict[str, Any]) -> str:
    """Figures of all contenders beside the floor, and the first contender's ratio to each other one."""
    contenders = results["contenders"]
    names = list(contenders)
    evaluations = {name: Evaluation.from_json(contenders[name]["evaluation"]) for name in names}
    rows = [["", *names, "floor", *(f"{names[0]} / {other}" for other in names[1:])]]
    for figure in evaluations[names[0]].figures:
        values = [evaluations[name][figure.name] for name in names]
        ratios = [_ratio(values[0].value, other.value) for other in values[1:]]
        rows.append([figure.measure.title, *map(str, values), str(figure.floor), *ratios])
    for key in ("examples_per_second", "steps", "parameters", "training_seconds", "sampling_seconds"):
        numbers = [float(contenders[name][key] or "nan") for name in names]
        ratios = [_ratio(numbers[0], other) for other in numbers[1:]]
        rows.append([key.replace("_", " "), *(f"{number:,.0f}" for number in numbers), "", *ratios])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.3g}" if other else "–"


def classifier(settings: argparse.Namespace, images: Images) -> tuple[Classifier, float]:
    """The feature extractor, from the cache where it is there, and its accuracy on the test set."""
    settings.cache.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    cache = settings.cache / "fashion-mnist.safetensors"
    extractor = fit_features(images.train, images.train_labels, epochs=1 if settings.quick else None, cache=cache)
    if not isinstance(extractor, Classifier):
        raise TypeError(f"images with labels give a classifier, got {type(extractor).__name__}")
    accuracy = extractor.accuracy(images.test, images.test_labels)
    print(f"classifier: {accuracy:.2%} of the test set right ({time.perf_counter() - start:.0f} s)", flush=True)
    return extractor, accuracy


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="wall time of each training")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where the classifier is kept")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--peer-classes", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--peer-precision", choices=("float32", "auto"), default="float32", help="auto: as scorefield's"
    )
    parser.add_argument("--quick", action="store_true", help="seconds of training and few samples: does it all work?")
    parser.add_argument("--train-with", type=shlex.split, default=[], help="further arguments for `scorefield train`")
    parser.add_argument("--sample-with", type=shlex.split, default=[], help="further arguments for `scorefield sample`")
    settings = parser.parse_args()
    if settings.quick:
        settings.minutes, settings.samples, settings.cache = 0.3, 100, settings.cache / "quick"
    return settings


def main() -> None:
    """Measure, print the table, and write results.json and the grids."""
    settings = arguments()
    if not (settings.data / TRAIN_IMAGES).exists():
        sys.exit(
            f"skipped: no Fashion-MNIST at {settings.data}; install it with: apt-get install dataset-fashion-mnist"
        )
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    images = Images.read(settings.data)
    extractor, accuracy = classifier(settings, images)
    yardstick = Yardstick(images.train, extractor)
    floor = yardstick.floor(images.test, settings.samples)
    results: dict[str, Any] = {
        "minutes": settings.minutes,
        "threads": settings.threads,
        "accuracy": accuracy,
        "contenders": {},
    }
    runs = [lambda: ours(settings)] + ([] if settings.skip_peer else [lambda: peer(settings, images)])
    for run in runs:
        contender = run()
        results["contenders"][contender.name] = measure(contender, yardstick, floor, settings.out)
        # Each contender's figures are safe before the next one starts.
        write_bytes(settings.out / "results.json", json.dumps(results, indent=2).encode())
    print(table(results))


if __name__ == "__main__":
    main()
