"""`scorefield sample`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.choosing import GRID_NAMES, OWN_OPTIONS, SAMPLER_NAMES, chosen_sampler
from scorefield.cli.common import (
    Command,
    load_model,
    npz_bytes,
    numbered_files,
    print_json,
    require_name,
    require_parent,
    say,
    set_threads,
    write_each,
)
from scorefield.cli.conditions import conditions_of
from scorefield.cli.guiding import Guidance
from scorefield.errors import UsageError
from scorefield.paths import Discrete
from scorefield.records import kind_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from scorefield.model import Model
    from scorefield.paths import Path as NoisePath
    from scorefield.samplers import Sampler, State

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

    sampler: Annotated[
        str | None, tyro.conf.arg(help=f"{SAMPLER_NAMES}; the model's own without it. Hyphens are free: uni-pc.")
    ] = None

    steps: int | None = None
    """Steps from noise to data."""

    eta: float | None = None
    """The noise of ddim and calibrated: 0 is deterministic, 1 is the reverse process (DDPM)."""

    order: int | None = None
    """The order of a multistep sampler."""

    grid: Annotated[str | None, tyro.conf.arg(help=f"Where the steps are: {GRID_NAMES}.")] = None

    variance: str | None = None
    """The ancestral sampler's: small, large, or learned where the model has learned it."""

    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE …"), tyro.conf.UseAppendAction
    ] = ()
    """Any other option of the sampler, such as snr=0.2 or corrector=none, or of its grid, such as grid.rho=5; may be repeated."""

    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """A class, by name or number; without it classes come as often as in the data."""

    condition: Annotated[str | None, tyro.conf.arg(metavar="0.3,1.2")] = None
    """For a model of conditions its numbers in the data's own units (--condition=-0.3,1.2 where the first is negative), or
    @FILE.npy with a row a sample; samples are unconditional without it."""

    bent: Annotated[Guidance, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name="")] = field(default_factory=Guidance)

    temperature: float = 1.0
    """What all noise is multiplied by: below 1 samples are more typical and less varied."""

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
        model = self.bent.guided(load_model(self.model, self.device), self.model)
        sampler = self.chosen(model.config.sampler)
        sampler.times(model.config.path)  # what does not fit the model is refused before anything is drawn
        evaluations = (self._film if _extension(self.out) == ".gif" else self._draw)(model, sampler)
        say(f"drew {self.count} samples into {self.out}")
        if self.json:
            print_json(
                {
                    "out": self.out,
                    "count": self.count,
                    "seed": self.seed,
                    "sampler": kind_of(type(sampler)),
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
        require_name(self.out)
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
        own = {name: getattr(self, name) for name in OWN_OPTIONS}
        return chosen_sampler(default, self.sampler, own, self.settings)

    def _draw(self, model: Model, sampler: Sampler) -> int:
        """Write the samples; how often the denoiser was asked for one of them at most."""
        import numpy as np

        wanted, parts, labels, asked = self._wanted(model), [], [], 0
        for start in range(0, self.count, self.batch):
            part = None if wanted is None else wanted[start : start + self.batch]
            last, numbers = self._drawn(model, sampler, start, part)
            parts.append(model.config.representation.from_model(last.x))
            labels.append(None if numbers is None else numbers.cpu().numpy())
            asked = max(asked, last.evaluations)
        told: dict[str, np.ndarray | None] = {"conditions": wanted}
        if model.class_names:
            told = {"classes": np.concatenate([part for part in labels if part is not None])}
        _write_samples(self.out, model, np.concatenate(parts), told, self.seed, self.first)
        return asked

    def _wanted(self, model: Model) -> np.ndarray | None:
        """The classes or conditions that were asked for. Raises UsageError."""
        if self.condition is not None and self.class_ is not None:
            raise UsageError("--condition and --class are for different models; leave one out")
        if self.condition is not None:
            return conditions_of(model, self.condition, self.count)
        return model.class_numbers(self.class_, self.count)

    def _drawn(
        self, model: Model, sampler: Sampler, start: int, wanted: np.ndarray | None
    ) -> tuple[State, Tensor | None]:
        """The last state of the batch that begins so many samples after the first, and its classes or conditions."""
        size, first = min(self.batch, self.count - start), self.first + start
        labels = model.labels(self.seed, first, size, wanted)
        states = model.trajectory(
            size, sampler=sampler, seed=self.seed, labels=labels, temperature=self.temperature, first=first
        )
        *_, last = states
        return last, labels

    def _film(self, model: Model, sampler: Sampler) -> int:
        """Write x_t/√(α² + σ²) on its way from noise to data as a GIF; how often the denoiser was asked."""
        states = _Thinned()
        labels = model.labels(self.seed, self.first, self.count, self._wanted(model))
        sampler = sampler if self.steps is not None else _slowed(sampler, model.config.path)
        options: dict[str, Any] = {"labels": labels, "temperature": self.temperature, "first": self.first}
        for state in model.trajectory(self.count, sampler=sampler, seed=self.seed, **options):
            states.add(state)
        scale = self.temperature / model.config.path.prior_std
        start = model.noise(self.count, seed=self.seed, first=self.first) * scale
        _write(self.out, _film_of(model, start, states.spread(_FILM_FRAMES - 1)))
        return states.last.evaluations


def _extension(out: str) -> str:
    """What the output is to be: .png, .npz, .gif; empty for a folder."""
    return os.path.splitext(out)[1].lower()


def _write(out: str, data: bytes) -> None:
    from scorefield.storage import write_bytes

    write_bytes(out, data)


def _write_samples(
    out: str, model: Model, samples: np.ndarray, told: Mapping[str, np.ndarray | None], seed: int, first: int
) -> None:
    if _extension(out) == ".png":
        from scorefield.fitting import picture_of

        _write(out, picture_of(model, samples))
    elif _extension(out) == ".npz":
        _write(out, _archive(samples, told, seed))
    else:
        write_each(out, numbered_files(samples, model.config.representation, first), adds=first > 0)


def _archive(samples: np.ndarray, told: Mapping[str, np.ndarray | None], seed: int) -> bytes:
    """`samples` first, then `seeds` and, where there are such, `classes` or `conditions`."""
    import numpy as np

    arrays: dict[str, Any] = {"samples": samples, "seeds": np.full(len(samples), seed, dtype=np.int64)}
    return npz_bytes(arrays | {name: rows for name, rows in told.items() if rows is not None})


class _Thinned:
    """States of a trajectory whose length nobody knows: at most twice a film's frames are kept, spread over the way."""

    def __init__(self) -> None:
        self.kept: list[State] = []
        self.stride = 1
        self.seen = 0
        self.last: State

    def add(self, state: State) -> None:
        """Keep every `stride`-th; where there are too many, every other one of those."""
        self.last, self.seen = state, self.seen + 1
        if self.seen % self.stride == 0:
            self.kept.append(state)
        if len(self.kept) == 2 * _FILM_FRAMES:
            self.kept, self.stride = self.kept[1::2], 2 * self.stride

    def spread(self, most: int) -> Sequence[State]:
        """At most so many of them, the last one always the trajectory's."""
        states = self.kept if self.kept and self.kept[-1] is self.last else [*self.kept, self.last]
        stride = -(-len(states) // most)
        return states[(len(states) - 1) % stride :: stride]


def _slowed(sampler: Sampler, path: NoisePath) -> Sampler:
    """The sampler with as many steps as a film has frames: a film of few would jump. Long ones stay as they are."""
    evaluations = sampler.evaluations()
    if evaluations is None or evaluations > 2 * _FILM_FRAMES:
        return sampler
    most = min(path.steps, _FILM_FRAMES - 1) if isinstance(path, Discrete) else _FILM_FRAMES - 1
    slowed = replace(sampler, steps=max(sampler.steps, most))
    try:
        slowed.times(path)
    except UsageError:  # a grid of so many levels and no more
        return sampler
    return slowed


def _film_of(model: Model, start: Tensor, states: Sequence[State]) -> bytes:
    """A GIF of a start and states."""
    import torch

    from scorefield.evaluation.pictures import gif
    from scorefield.fitting import value_range

    representation = model.config.representation
    frames = [start, *(state.x / _size(model.config.path, state.t) for state in states)]
    arrays = [representation.channels_first(representation.from_model(frame)) for frame in frames]
    return gif([torch.from_numpy(array) for array in arrays], value_range=value_range(model))


def _size(path: NoisePath, t: float) -> float:
    """√(α² + σ²), about how large x_t is beside the data; 1 at the end."""
    return 1.0 if t == 0.0 else float(path.alpha(t) ** 2 + path.sigma(t) ** 2) ** 0.5
