"""What `edit`, `interpolate` and `invert` share: their options, the model and the sampler that they describe, and writing results."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.choosing import GRID_NAMES, OWN_OPTIONS, SAMPLER_NAMES, chosen_sampler
from scorefield.cli.common import (
    Command,
    label_dropout,
    load_model,
    npz_bytes,
    set_threads,
)
from scorefield.cli.conditions import conditions_of
from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.model import Model
    from scorefield.samplers import Sampler

_MOST = 1_000_000
_MOST_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Editing(Command, ABC):
    """A command that does something to data that are given, by a model."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    sampler: Annotated[str | None, tyro.conf.arg(help=f"{SAMPLER_NAMES}. Hyphens are free: uni-pc.")] = None

    steps: int | None = None
    """Steps of the whole way from noise to data; what is done on a part of the way takes its share."""

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
    """Any other option of the sampler, or of its grid, such as grid.rho=5; may be repeated."""

    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """A class, by name or number; none without it."""

    condition: Annotated[str | None, tyro.conf.arg(metavar="0.3,1.2")] = None
    """For a model of conditions its numbers in the data's own units."""

    seed: int = 0
    """Sample k of a seed is the same whatever -n and --batch are."""

    batch: int = 256
    """Samples at a time."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def _loaded(self) -> Model:
        """The model, with everything that can be checked before it checked. Raises UsageError."""
        if self.batch < 1:
            raise UsageError(f"--batch must be at least 1, got {self.batch}")
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed must fit 64 bits, got {self.seed}")
        if self.condition is not None and self.class_ is not None:
            raise UsageError("--condition and --class are for different models; leave one out")
        set_threads(self.threads)
        return load_model(self.model, self.device)

    def _chosen(self, default: Sampler) -> Sampler:
        """The sampler that the options describe. Raises UsageError."""
        return chosen_sampler(default, self.sampler, {name: getattr(self, name) for name in OWN_OPTIONS}, self.settings)

    def _told(self, model: Model, class_name: str | None = None) -> dict[str, Any]:
        """`classes` and `condition` for one sample, as `Model.edit` takes them; the class of the example where none was asked for.

        Raises:
            UsageError: no class, for a model that was never without.
        """
        chosen = self.class_ or class_name
        if chosen is None and model.config.classes and label_dropout(self.model) == 0.0:
            raise UsageError(
                "this model was trained with label_dropout=0 and never saw data without a class; give one with --class"
            )
        rows = conditions_of(model, self.condition, 1)
        return {"classes": chosen, "condition": None if rows is None else rows[0]}


def check_count(count: int) -> None:
    """Refuse an impossible `-n`. Raises UsageError."""
    if not 1 <= count <= _MOST:
        raise UsageError(f"-n must be between 1 and {_MOST}, got {count}")


def numbers_along(text: str, option: str) -> list[float]:
    """One number, several with commas between them, or FROM:TO:COUNT, all within [0, 1]. Raises UsageError."""
    try:
        parts = [float(part) for part in text.split(":")] if ":" in text else []
        numbers = _spread(*parts) if parts else [float(part) for part in text.split(",")]
    except (ValueError, TypeError, OverflowError):
        raise UsageError(
            f"{option} takes a number such as 0.5, several such as 0.3,0.5, or FROM:TO:COUNT such as 0.2:0.8:7; got '{text}'"
        ) from None
    wrong = [number for number in numbers if not 0.0 <= number <= 1.0]
    if wrong:
        raise UsageError(f"{option} goes from 0 (the guide itself) to 1 (nothing of it), got {wrong[0]:g}")
    if len(numbers) > _MOST_ROWS:
        raise UsageError(f"{option} takes at most {_MOST_ROWS} values, got {len(numbers)}")
    return numbers


def _spread(low: float, high: float, count: float) -> list[float]:
    if count != int(count) or not 2 <= count <= 1e6:
        raise ValueError
    return [low + (high - low) * k / (int(count) - 1) for k in range(int(count))]


def write_strip(out: str, model: Model, rows: Sequence[np.ndarray]) -> None:
    """A PNG with one row of pictures for each array (n, …), all of one n."""
    import numpy as np

    from scorefield.fitting import picture_of
    from scorefield.storage import write_bytes

    write_bytes(out, picture_of(model, np.concatenate(list(rows)), columns=len(rows[0])))


def write_arrays(out: str, arrays: Mapping[str, np.ndarray | None]) -> None:
    """An .npz of those arrays that are there, in their order."""
    from scorefield.storage import write_bytes

    write_bytes(out, npz_bytes({name: array for name, array in arrays.items() if array is not None}))
