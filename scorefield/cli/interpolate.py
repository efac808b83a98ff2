"""`scorefield interpolate`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scorefield.cli.common import check_out, numbered_files, print_json, say, write_each
from scorefield.cli.editing import (
    Editing,
    check_count,
    numbers_along,
    write_arrays,
    write_strip,
)
from scorefield.cli.guiding import Guidance
from scorefield.errors import UsageError
from scorefield.records import kind_of

if TYPE_CHECKING:
    import numpy as np

    from scorefield.model import Model
    from scorefield.samplers import Sampler

_MILLISECONDS = 120


@dataclass(frozen=True, kw_only=True)
class InterpolateCommand(Editing):
    """Draw what lies between two pictures or other data: by one noise for all, or along the flow's own latents.

    The depth says how much noise is put between them: little keeps both as they are laid over one another, much keeps what they
    have in common. Several depths make a picture from fine to coarse, a row each.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """An image file, a .npy file, or any DATA with --index."""

    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another; the same DATA with a second index will do."""

    out: str
    """X.png (a strip with the two at its ends; a row a depth), X.gif (a film there and back), X.npz, or a folder."""

    count: Annotated[int, tyro.conf.arg(name="count", aliases=("-n",))] = 9
    """How many, both ends among them."""

    depth: str = "0.5"
    """How much noise, as `edit --strength`: from 0 to 1; several as 0.3,0.5 or FROM:TO:COUNT."""

    method: Literal["stochastic", "ode"] = "stochastic"
    """One noise for all, and any sampler; or the probability flow up and down, and the arc between (deterministic)."""

    index: str | None = None
    """Which examples of DATA: one number for each DATA, with a comma between two."""

    resize: bool = False
    """Bring pictures of another size to the model's."""

    bent: Annotated[Guidance, tyro.conf.OmitArgPrefixes] = field(default_factory=Guidance)
    """How what lies between is guided, with --method stochastic."""

    def run(self) -> int:
        """Read, interpolate, write."""
        depths = numbers_along(self.depth, "--depth")
        self._check(len(depths))
        model = self._loaded()
        ends = self._ends(model)
        told = self._told(model)
        model = self.bent.guided(model, self.model, has_label=any(value is not None for value in told.values()))
        sampler = self._walker(model)
        sampler.times(model.config.path)
        options: dict[str, Any] = {
            "count": self.count,
            "method": self.method,
            "sampler": sampler,
            "seed": self.seed,
            **told,
        }
        from scorefield.model_editing import interpolate

        found = [interpolate(model, ends[0], ends[1], depth=depth, batch=self.batch, **options) for depth in depths]
        self._write(model, ends, depths, [each.samples for each in found])
        apart = _apart(ends, [each.samples for each in found])
        if self.method == "ode":
            print(f"ends come back to {apart:.4g} root mean squared, in the data's own unit")
        say(f"interpolated into {self.out}")
        if self.json:
            rows = [
                {"depth": depth, "evaluations": each.evaluations} for depth, each in zip(depths, found, strict=True)
            ]
            about = {"out": self.out, "count": self.count, "seed": self.seed, "method": self.method}
            print_json(
                {**about, "sampler": kind_of(type(sampler)), "steps": sampler.steps, "ends_apart": apart, "rows": rows}
            )
        return 0

    def _check(self, depths: int) -> None:
        check_count(self.count)
        extension = check_out(self.out, (".png", ".gif", ".npz", ""), self.a, self.b)
        if self.count < 2:
            raise UsageError(f"an interpolation has at least its two ends, so that -n is 2 or more; got {self.count}")
        if extension == ".gif" and depths > 1:
            raise UsageError(f"a film has one depth, got {depths}; give one, or --out X.png")
        if self.method == "ode" and self.bent != Guidance():
            raise UsageError("guidance makes another flow, which is not run upwards; leave it out with --method ode")

    def _walker(self, model: Model) -> Sampler:
        """The editor's sampler by default, the inverter's for the flow. Raises UsageError."""
        from scorefield.editing.latents import inverter
        from scorefield.editing.sdedit import editor

        default = (editor if self.method == "stochastic" else inverter)(model.config.path)
        chosen = self._chosen(default)
        if self.method == "ode" and not chosen.is_deterministic:
            raise UsageError(
                f"--method ode goes along the flow, and {kind_of(type(chosen))} draws noise; use a deterministic sampler, or --method stochastic"
            )
        return chosen

    def _ends(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        from scorefield.cli.pictures import is_one_example, read_example

        indices = self._indices()
        ends = []
        for source in (self.a, self.b):
            is_one = is_one_example(model, source)
            if not is_one and self.index is not None and not indices:
                raise UsageError(f"--index {self.index} names too few: one for each DATA, such as --index 3,8")
            index = None if is_one or not indices else indices.pop(0)
            ends.append(read_example(model, self.model, source, index, self.resize)[0])
        if indices:
            raise UsageError(f"--index {self.index} names more examples than there are DATA; leave those out")
        return ends[0], ends[1]

    def _indices(self) -> list[int]:
        try:
            return [] if self.index is None else [int(part) for part in self.index.split(",")]
        except ValueError:
            raise UsageError(f"--index takes whole numbers with a comma between two, got '{self.index}'") from None

    def _write(
        self, model: Model, ends: tuple[np.ndarray, np.ndarray], depths: Sequence[float], rows: Sequence[np.ndarray]
    ) -> None:
        import numpy as np

        extension = os.path.splitext(self.out)[1].lower()
        samples = np.concatenate(rows)
        if extension == ".png":
            write_strip(self.out, model, [np.concatenate([ends[0][None], row, ends[1][None]]) for row in rows])
        elif extension == ".gif":
            _write_film(self.out, model, samples)
        elif extension == ".npz":
            from scorefield.editing.latents import weights

            shares = np.tile(weights(self.count).numpy(), len(depths))
            of_each = np.repeat(np.array(depths), self.count)
            arrays = {"samples": samples, "weights": shares, "depths": of_each, "ends": np.stack(ends)}
            write_arrays(self.out, arrays)
        else:
            write_each(self.out, numbered_files(samples, model.config.representation))


def _apart(ends: tuple[np.ndarray, np.ndarray], rows: Sequence[np.ndarray]) -> float:
    """How far the worse of the two ends is from what was given, over the depths: a root of a mean square."""
    import numpy as np

    pairs = [(row[place], end) for row in rows for place, end in ((0, ends[0]), (-1, ends[1]))]
    return max(float(np.sqrt(np.mean((one.astype(np.float64) - other) ** 2))) for one, other in pairs)


def _write_film(out: str, model: Model, samples: np.ndarray) -> None:
    """There and back, one picture a frame."""
    import torch

    from scorefield.evaluation.pictures import gif
    from scorefield.fitting import value_range
    from scorefield.storage import write_bytes

    frames = torch.from_numpy(model.config.representation.channels_first(samples))
    order = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    film = [frames[k : k + 1] for k in order]
    write_bytes(out, gif(film, value_range=value_range(model), milliseconds=_MILLISECONDS, hold=_MILLISECONDS))
