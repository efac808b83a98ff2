"""Every preset for the same time: each is trained on Fashion-MNIST, draws a grid by its own sampler, and is measured.

The papers' settings were meant for days and large batches. What makes a short run meaningful is the same for all here
(`SHARED`): the network, the batch, the optimiser and its schedule, the average of the weights, the centring. What is a
paper's own stays: the path, what the network predicts, the objective, the law of the times, and the sampler. All is done by
the command line. The Fréchet distance is that of `scorefield evaluate`, in the features of a small classifier, with
the floor that held-out pictures have; samplers of a thousand evaluations draw for it in fewer (`Preset.brief`).

    python benchmarks/presets.py --minutes 10 --threads 2

On a machine that does other work too the same time is not the same training: `--steps 2000` counts steps instead.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from quality import FASHION_MNIST, TRAIN_IMAGES, Images
from torch import Tensor

from scorefield.evaluation.distances import Estimate, frechet_distance
from scorefield.evaluation.features import Features, fit_features
from scorefield.evaluation.pictures import png
from scorefield.evaluation.records import RunRecord
from scorefield.storage import write_bytes
from scorefield.training.configuration import PRESETS

SHARED = (
    "batch=64",
    "centre=true",
    "guidance=1",
    "optimiser.kind=muon",
    "optimiser.learning_rate=1.2e-3",
    "optimiser.betas=[0.9,0.99]",
    "optimiser.weight_decay=0.01",
    "optimiser.warmup=50",
    "optimiser.decay=cosine",
    "optimiser.clip=10",
    "average.profile=power",
    "average.width=0.075",
    "calibrate=false",
    "previews=0",
)
"""What all presets are trained with, instead of their own."""

MARGIN = 16


@dataclass(frozen=True)
class Preset:
    """What is a preset's own in this comparison.

    Attributes:
        settings: of its training, where the paper's data have another scale than [−1, 1].
        brief: options of `scorefield sample` for the Fréchet distance, where the paper's would take too long.
    """

    settings: tuple[str, ...] = ()
    brief: str = ""


OWN = {
    "ddpm": Preset(brief="--steps 100"),
    "iddpm": Preset(brief="--steps 100"),
    # For data in [0, 1] the paper has half the noise and a quarter of the step.
    "ncsn": Preset(("path.sigma_max=2", "path.sigma_min=0.02", "sampler.epsilon=8e-5"), "--set inner_steps=20"),
    "ncsnv2": Preset(brief="--steps 40"),
    "ve": Preset(brief="--steps 100"),
    "vp": Preset(brief="--steps 200"),
    "subvp": Preset(brief="--steps 200"),
}
"""What the presets have of their own; nothing where none is listed."""


@dataclass(frozen=True)
class Result:
    """What came of a preset."""

    name: str
    steps: int
    evaluations: int
    brief_evaluations: int
    distance: Estimate

    def row(self) -> str:
        """Its line of the table."""
        evaluations = f"{self.evaluations:,} | {self.brief_evaluations:,}"
        return f"| `{self.name}` | {self.steps:,} | {evaluations} | {self.distance} |"


def training(name: str, settings: argparse.Namespace) -> list[str]:
    """The command that trains a preset."""
    changed = [*SHARED, *settings.network, *OWN.get(name, Preset()).settings]
    words = ["train", str(settings.data / TRAIN_IMAGES), "--out", str(settings.out / name), "--preset", name]
    length = ["--minutes", f"{settings.minutes:g}"] if settings.steps is None else ["--steps", str(settings.steps)]
    words += [*length, "--threads", str(settings.threads)]
    return [*words, *(word for setting in changed for word in ("--set", setting))]


def drawing(name: str, out: str, count: int, settings: argparse.Namespace, more: str = "") -> list[str]:
    """The command that draws from it."""
    words = ["sample", str(settings.out / name), "-n", str(count), "--out", str(settings.out / f"{name}-{out}.npz")]
    return [*words, "--threads", str(settings.threads), *shlex.split(more), "--json"]


def scorefield(words: list[str]) -> str:
    """Run a command; its standard output."""
    print("+ scorefield", shlex.join(words), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "scorefield", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def drawn(words: list[str]) -> tuple[Tensor, int]:
    """Run a command that draws, unless it has been run: the pictures (n, 1, 28, 28), and the evaluations they took."""
    file = Path(words[words.index("--out") + 1])
    facts = file.with_suffix(".json")
    if not facts.exists() or json.loads(facts.read_text()).get("command") != words:
        write_bytes(facts, json.dumps({"command": words, **json.loads(scorefield(words).splitlines()[-1])}).encode())
    with np.load(file, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["samples"])[:, None], json.loads(facts.read_text())["evaluations"]


def measure(name: str, extractor: Features, reference: Tensor, settings: argparse.Namespace) -> Result:
    """Draw a preset's grid and its samples, and measure these."""
    brief = OWN.get(name, Preset()).brief
    grid, evaluations = drawn(drawing(name, "grid", settings.grid, settings))
    samples, brief_evaluations = drawn(drawing(name, "samples", settings.samples, settings, brief))
    write_bytes(settings.out / f"{name}.png", png(grid))
    distance = frechet_distance(extractor.features(samples), reference)
    steps = RunRecord.of(settings.out / name).steps
    return Result(name, steps, evaluations, brief_evaluations, distance)


def page_of_grids(names: list[str], folder: Path, columns: int = 5) -> bytes:
    """The grids side by side, each under its preset's name; a PNG."""
    grids = [Image.open(folder / f"{name}.png").convert("L") for name in names]
    width, height = max(grid.width for grid in grids), max(grid.height for grid in grids) + MARGIN
    columns = min(columns, len(names))
    page = Image.new("L", (columns * (width + MARGIN) - MARGIN, -(-len(names) // columns) * height), 255)
    pen = ImageDraw.Draw(page)
    for number, (name, grid) in enumerate(zip(names, grids, strict=True)):
        x, y = number % columns * (width + MARGIN), number // columns * height
        pen.text((x + 2, y + 2), name, fill=0)
        page.paste(grid, (x, y + MARGIN))
    buffer = io.BytesIO()
    page.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def document(results: list[Result], floor: Estimate, settings: argparse.Namespace) -> str:
    """The page docs/presets.md."""
    minutes, steps = f"{settings.minutes:g} minutes of wall time", f"{settings.steps} steps"
    length = f"{minutes if settings.steps is None else steps} with {settings.threads} processor thread(s)"
    option = f"--minutes {settings.minutes:g}" if settings.steps is None else f"--steps {settings.steps}"
    shared = " ".join(f"--set {setting}" for setting in (*SHARED, *settings.network))
    commands = "\n".join(_own_commands(result.name, settings) for result in results)
    rows = "\n".join(result.row() for result in results)
    return f"""# The presets side by side

Every preset, trained on Fashion-MNIST for {length}, by `make presets`.
Each grid is drawn by the preset's own sampler with its paper's number of steps.

![A grid of samples for each preset](images/presets.png)

| preset | training steps | evaluations, grid | evaluations, distance | Fréchet distance |
|---|---|---|---|---|
{rows}
| held-out pictures | | | | {floor} |

The distance is that of `scorefield evaluate`: between {settings.samples} samples and the 60,000 pictures of the training set, in the features of a small
classifier. With so few samples it is biased upwards, for held-out pictures as well: compare it with the last line. Where the paper's sampler
takes many evaluations, fewer were spent on these samples; the two columns of evaluations differ there.

This compares what the presets come to in a short time, not what their papers reach in days: a law that learns slowly and ends well
is at a disadvantage here. Some papers' warm-ups alone are longer than this, and their averages remember more, so all presets share these:

```text
{shared}
```

What is a paper's own has been left: the path, what the network predicts, the objective, the times, and the sampler. Centring moves the
data by one mean; `ncsn` gets the noise levels and the step that are the paper's for data in [0, 1], in the unit of data in [−1, 1]. `calibrate=false` leaves the default preset's
sampler uncalibrated, and `guidance=1` draws without guidance; by itself
the default preset has both.

Beside the shared settings (`$SHARED`) and `{option}`:

```bash
{commands}
```
"""


def _own_commands(name: str, settings: argparse.Namespace) -> str:
    own = OWN.get(name, Preset())
    changed = "".join(f" --set {setting}" for setting in own.settings)
    lines = [
        f"scorefield train {TRAIN_IMAGES} --out {name} --preset {name} $SHARED{changed}",
        f"scorefield sample {name} -n {settings.grid} --out {name}.png",
    ]
    measured = f"scorefield sample {name} -n {settings.samples} --out {name}.npz {own.brief}"
    return "\n".join([*lines, measured] if own.brief else lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="wall time of each training")
    parser.add_argument("--steps", type=int, help="training steps of each, instead of wall time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--grid", type=int, default=64, help="pictures of each grid")
    parser.add_argument("--samples", type=int, default=500, help="pictures of each Fréchet distance")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--network", nargs="*", default=[], help="settings of the network, the same for all presets")
    parser.add_argument("--data", type=Path, default=FASHION_MNIST)
    parser.add_argument("--out", type=Path, default=Path("runs/presets"))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where the classifier is kept")
    parser.add_argument("--docs", type=Path, help="where the page and its picture go; --out without it")
    return parser.parse_args()


def main() -> None:
    """Train all that are not trained yet, draw, measure, and write the page."""
    settings = arguments()
    if not (settings.data / TRAIN_IMAGES).exists():
        sys.exit(
            f"skipped: no Fashion-MNIST at {settings.data}; install it with: apt-get install dataset-fashion-mnist"
        )
    settings.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(settings.threads)
    for name in settings.presets:
        scorefield(training(name, settings))
    images = Images.read(settings.data)
    settings.cache.mkdir(parents=True, exist_ok=True)
    extractor = fit_features(images.train, images.train_labels, cache=settings.cache / "fashion-mnist.safetensors")
    reference = extractor.features(images.train)
    floor = frechet_distance(extractor.features(images.test[: settings.samples]), reference)
    results = [measure(name, extractor, reference, settings) for name in settings.presets]
    folder = settings.docs or settings.out
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "presets.md", document(results, floor, settings).encode())
    write_bytes(folder / "images/presets.png", page_of_grids(settings.presets, settings.out))
    print("\n".join(result.row() for result in results))


if __name__ == "__main__":
    main()
