"""`scorefield sample`."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.common import Command, load_model, print_json, require_parent, say, set_threads
from scorefield.errors import UsageError
from scorefield.paths import Discrete

if TYPE_CHECKING:
    import numpy as np

    from scorefield.model import Model
    from scorefield.paths import Path as NoisePath
    from scorefield.samplers import Sampler

_FILM_FRAMES = 40
_MOST_SAMPLES = 100_000_000
_LAST_SAMPLE = 1 << 62


@dataclass(frozen=True)
class SampleCommand(Command):
    """Draw samples from a trained model into a grid (.png), an array (.npz), a film (.gif) or a folder of images."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    out: str
    """X.png, X.npz, X.gif, or a folder."""

    count: Annotated[int, tyro.conf.arg(name="n", aliases=("-n",))] = 64
    """How many."""

    sampler: str | None = None
    """ancestral, ddim or heun; the model's own without it."""

    steps: int | None = None
    """Steps from noise to data."""

    eta: float | None = None
    """DDIM's noise: 0 is deterministic, 1 is DDPM."""

    grid: str | None = None
    """Where the steps are: native, linear, quadratic, trailing, leading, logsnr or karras."""

    variance: str | None = None
    """The ancestral sampler's: small or large."""

    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """A class, by name or number; without it classes come as often as in the data."""

    guidance: float | None = None
    """Scale of classifier-free guidance towards the class: 1 is none; the model's own without it."""

    seed: int = 0
    """Sample k of a seed is the same whatever -n and --batch are."""

    first: int = 0
    """The number of the first sample."""

    batch: int = 256
    """Samples at a time."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Draw and write."""
        self._check()
        set_threads(self.threads)
        model = load_model(self.model, self.device)
        if self.guidance is not None:
            model = model.with_guidance(self.guidance)
        sampler = self.chosen(model.config.sampler)
        if _extension(self.out) == ".gif":
            if self.steps is None:  # a film of few steps would jump
                most = model.config.path.steps if isinstance(model.config.path, Discrete) else _FILM_FRAMES - 1
                sampler = replace(sampler, steps=max(sampler.steps, min(most, _FILM_FRAMES - 1)))
            _write(self.out, _film(model, sampler, self.count, self.seed, self.class_, self.first))
            evaluations = sampler.evaluations()
        else:
            evaluations = self._draw(model, sampler)
        say(f"drew {self.count} samples into {self.out}")
        if self.json:
            print_json(
                {
                    "out": self.out,
                    "count": self.count,
                    "seed": self.seed,
                    "sampler": type(sampler).__name__.lower(),
                    "steps": sampler.steps,
                    "evaluations": evaluations,
                }
            )
        return 0

    def _check(self) -> None:
        if self.count < 1 or self.batch < 1 or self.first < 0:
            raise UsageError(
                f"sampling needs -n ≥ 1, --batch ≥ 1 and --first ≥ 0, got {self.count}, {self.batch}, {self.first}"
            )
        if self.count > _MOST_SAMPLES or self.first > _LAST_SAMPLE:
            raise UsageError(
                f"sampling takes -n ≤ {_MOST_SAMPLES} and --first ≤ {_LAST_SAMPLE}, got {self.count} and {self.first}; draw in parts, with --first"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed must fit 64 bits, got {self.seed}")
        extension = _extension(self.out)
        if extension not in ("", ".png", ".npz", ".gif"):
            raise UsageError(
                f"--out {self.out}: cannot write '{extension}'; use .png (a grid), .npz (arrays), .gif (a film) or a folder"
            )
        if os.path.isdir(self.out) and extension:
            raise UsageError(f"--out {self.out} is a folder; name a file in it")
        if not extension and os.path.lexists(self.out) and not os.path.isdir(self.out):
            raise UsageError(f"--out {self.out} is a file, not a folder; name a new one, or X.png, X.npz or X.gif")
        require_parent(self.out)

    def chosen(self, default: Sampler) -> Sampler:
        """The sampler that the options describe, starting from the model's own. Raises UsageError."""
        from scorefield.records import by_kind
        from scorefield.samplers import GRIDS, SAMPLERS

        kind = type(default) if self.sampler is None else by_kind(SAMPLERS, self.sampler, "sampler")
        sampler: Any = default if isinstance(default, kind) else kind()
        options = {
            "steps": self.steps,
            "eta": self.eta,
            "variance": self.variance,
            "grid": None if self.grid is None else by_kind(GRIDS, self.grid, "grid")(),
        }
        given = {name: value for name, value in options.items() if value is not None}
        known = {field.name for field in fields(sampler)}
        for name in given:
            if name not in known:
                raise UsageError(
                    f"the sampler {kind.__name__.lower()} has no --{name}; it has {', '.join(f'--{option}' for option in sorted(known))}"
                )
        return replace(sampler, **given)

    def _draw(self, model: Model, sampler: Sampler) -> int | None:
        import numpy as np

        parts, labels = [], []
        batches = model.batches(
            self.count, sampler=sampler, seed=self.seed, classes=self.class_, first=self.first, batch=self.batch
        )
        for samples, numbers in batches:
            parts.append(samples)
            labels.append(numbers)
        classes = None if labels[0] is None else np.concatenate([part for part in labels if part is not None])
        _write_samples(self.out, model, np.concatenate(parts), classes, self.seed, self.first)
        return sampler.evaluations()


def _extension(out: str) -> str:
    """What the output is to be: .png, .npz, .gif; empty for a folder."""
    return os.path.splitext(out)[1].lower()


def _write(out: str, data: bytes) -> None:
    from scorefield.storage import write_bytes

    write_bytes(out, data)


def _write_samples(
    out: str, model: Model, samples: np.ndarray, classes: np.ndarray | None, seed: int, first: int
) -> None:
    if _extension(out) == ".png":
        from scorefield.fitting import picture_of

        _write(out, picture_of(model, samples))
    elif _extension(out) == ".npz":
        _write(out, _archive(samples, classes, seed))
    else:
        _write_folder(Path(out), model, samples, first)


def _archive(samples: np.ndarray, classes: np.ndarray | None, seed: int) -> bytes:
    """`samples` first, then `seeds` and, where there are classes, `classes`."""
    import numpy as np

    arrays: dict[str, Any] = {"samples": samples, "seeds": np.full(len(samples), seed, dtype=np.int64)}
    if classes is not None:
        arrays["classes"] = classes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _write_folder(folder: Path, model: Model, samples: np.ndarray, first: int) -> None:
    """000000.png … with lossless pixels for 8-bit and grey 16-bit images; .npy files for all other data."""
    from scorefield.evaluation.pictures import lossless_png

    folder.mkdir(exist_ok=True)
    representation = model.config.representation
    channels = {"uint8": (1, 3, 4), "uint16": (1,)}.get(samples.dtype.name, ())
    is_image = representation.layout == "image" and representation.shape[0] in channels
    for number, sample in enumerate(samples, start=first):
        data = lossless_png(sample) if is_image else _npy(sample)
        _write(str(folder / f"{number:06d}.{'png' if is_image else 'npy'}"), data)


def _npy(sample: np.ndarray) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, sample, allow_pickle=False)
    return buffer.getvalue()


def _film(model: Model, sampler: Sampler, count: int, seed: int, class_: str | None, first: int) -> bytes:
    """A GIF of x_t/√(α² + σ²) on its way from noise to data, in at most forty frames."""
    import torch

    from scorefield.evaluation.pictures import gif
    from scorefield.fitting import value_range

    labels = model.labels(seed, first, count, model.class_numbers(class_, count))
    states = model.trajectory(count, sampler=sampler, seed=seed, labels=labels, first=first)
    frames = [model.noise(count, seed=seed, first=first) / model.config.path.prior_std]
    stride = max(1, -(-sampler.steps // (_FILM_FRAMES - 1)))
    for number, state in enumerate(states, start=1):
        if (sampler.steps - number) % stride == 0:
            frames.append(state.x / _size(model.config.path, state.t))
    representation = model.config.representation
    arrays = [representation.channels_first(representation.from_model(frame)) for frame in frames]
    return gif([torch.from_numpy(array) for array in arrays], value_range=value_range(model))


def _size(path: NoisePath, t: float) -> float:
    """√(α² + σ²), about how large x_t is beside the data; 1 at the end."""
    return 1.0 if t == 0.0 else float(path.alpha(t) ** 2 + path.sigma(t) ** 2) ** 0.5
