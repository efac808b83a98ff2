"""What `restore`, `inpaint`, `colorize` and `upscale` share: a measurement is read or made, restored, compared and written."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from scorefield.cli.choosing import GRID_NAMES, OWN_OPTIONS, SAMPLER_NAMES, chosen_sampler
from scorefield.cli.common import (
    Command,
    check_out,
    label_dropout,
    load_model,
    npz_bytes,
    open_given,
    print_json,
    say,
    set_threads,
    write_each,
)
from scorefield.cli.conditions import conditions_of
from scorefield.cli.guiding import Guidance
from scorefield.cli.restored_files import Restoration, folder_files, psnr_rows, strip
from scorefield.errors import UsageError, unknown_name
from scorefield.records import by_kind, from_plain, kind_of, to_plain

if TYPE_CHECKING:
    import numpy as np

    from scorefield.editing.operators import LinearOperator
    from scorefield.editing.posterior import Method
    from scorefield.model import Model
    from scorefield.samplers import Sampler

Record = TypeVar("Record")

_MOST = 1_000_000
_OF_SAMPLER = "sampler."


@dataclass(frozen=True, kw_only=True)
class Restoring(Command, ABC):
    """A command that restores pictures or other data by a model, given what an operator leaves of them."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    image: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """The measurement: an image file or a .npy file; with --degrade a clean picture, also of any DATA by --index or --first."""

    out: str
    """X.png (a strip: measurement, samples, mean, deviation), X.npz (arrays), or a folder."""

    count: Annotated[int, tyro.conf.arg(name="n", aliases=("-n",))] = 8
    """Samples of each measurement."""

    noise: float = 0.0
    """Standard deviation of the measurement's noise, in the data's units: grey levels for 8-bit pictures."""

    method: str | None = None
    """How the measurement is joined to the model; what measures best for the task without it."""

    sampler: Annotated[
        str | None, tyro.conf.arg(help=f"{SAMPLER_NAMES}. Without it ddim with --eta 1 in 100 steps. Hyphens are free.")
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
    """Any other option of the method, or of the sampler as sampler.grid.rho=5; may be repeated."""

    degrade: bool = False
    """IMAGE is clean: measure it first, with noise of the seed, and report how near the restored ones come to it."""

    index: int | None = None
    """Which example of DATA."""

    first: int | None = None
    """So many examples of DATA from the first, each restored by itself."""

    resize: bool = False
    """Bring pictures of another size to the one that is wanted."""

    class_: Annotated[str | None, tyro.conf.arg(name="class", metavar="NAME")] = None
    """A class, by name or number; none without it."""

    condition: str | None = None
    """For a model of conditions: numbers with commas between them."""

    bent: Annotated[Guidance, tyro.conf.OmitArgPrefixes] = field(default_factory=Guidance)
    """How what is restored is guided."""

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

    @abstractmethod
    def _operator(self, model: Model) -> tuple[str, LinearOperator]:
        """What was measured, for people and as an operator. Raises UsageError."""

    def run(self) -> int:
        """Measure or read, restore, write, report."""
        self._check()
        set_threads(self.threads)
        model = self._guided(load_model(self.model, self.device))
        task, operator = self._operator(model)
        from scorefield.model_restoration import method_for, restore_each, sampler_for

        method = self._method(method_for(operator))
        sampler = self._sampler(sampler_for(model.config.path))
        sampler.times(model.config.path)  # what does not fit the model is refused before anything is drawn
        self._say_what_is_left_out(method, sampler)
        ys, originals = self._given(model, operator)
        say(f"{task}: {len(ys)} × {self.count} samples by {kind_of(type(method))} with {kind_of(type(sampler))}")
        found = restore_each(
            model,
            ys,
            operator,
            noise=self.noise,
            method=method,
            sampler=sampler,
            count=self.count,
            seed=self.seed,
            classes=self.class_,
            condition=conditions_of(model, self.condition, 1),
            batch=self.batch,
        )
        rows = [
            Restoration(y, each, None if originals is None else originals[i])
            for i, (y, each) in enumerate(zip(ys, found, strict=True))
        ]
        self._write(model, operator, rows)
        errors = psnr_rows(model.config.representation, rows) if originals is not None else {}
        for name, (value, error) in errors.items():
            print(f"{name.replace('_', ' '):<20}{value:.2f}" + ("" if math.isnan(error) else f" ± {error:.2f}"))
        say(f"restored into {self.out}")
        if self.json:
            print_json(self._result(task, method, sampler, found[0].evaluations, len(rows), errors))
        return 0

    def _check(self) -> None:
        if not 1 <= self.count <= _MOST or self.batch < 1 or (self.first is not None and not 1 <= self.first <= _MOST):
            raise UsageError(
                f"restoring needs 1 ≤ -n ≤ {_MOST}, --batch ≥ 1 and --first ≥ 1, got {self.count}, {self.batch} and {self.first}"
            )
        if not 0.0 <= self.noise < math.inf:
            raise UsageError(f"--noise is a standard deviation in the data's units, 0 or more; got {self.noise}")
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"--seed must fit 64 bits, got {self.seed}")
        if self.index is not None and self.first is not None:
            raise UsageError("--index and --first both say which examples; give one of them")
        check_out(self.out, (".png", ".npz", ""), self.image, self._mask_file())

    def _mask_file(self) -> str | None:
        """The mask that is read; None where there is none."""
        return None

    def _guided(self, model: Model) -> Model:
        """The model with the scale of guidance that was asked for. Raises UsageError."""
        if self.class_ is None and model.config.classes and label_dropout(self.model) == 0.0:
            raise UsageError(
                "this model was trained with label_dropout=0 and never saw data without a class; give one with --class"
            )
        has_label = self.class_ is not None or self.condition is not None
        return self.bent.guided(model, self.model, has_label=has_label)

    # ── method and sampler ───────────────────────────────────────────────────────────────────────────────────────────

    def _method(self, default: Method) -> Method:
        """The method that the options describe. Raises UsageError."""
        from scorefield.editing.methods import METHODS
        from scorefield.editing.posterior import Method
        from scorefield.training.configuration import parse_settings

        kind = type(default) if self.method is None else by_kind(METHODS, _plain(self.method), "method")
        chosen = default if isinstance(default, kind) else kind()
        own = parse_settings([each for each in self.settings if not each.startswith(_OF_SAMPLER)])
        return _with_options(Method, METHODS, chosen, own, "method")

    def _sampler(self, default: Sampler) -> Sampler:
        """The sampler that the options describe. Raises UsageError."""
        own = {name: getattr(self, name) for name in OWN_OPTIONS}
        of_sampler = [each.removeprefix(_OF_SAMPLER) for each in self.settings if each.startswith(_OF_SAMPLER)]
        return chosen_sampler(default, self.sampler, own, of_sampler)

    def _say_what_is_left_out(self, method: Method, sampler: Sampler) -> None:
        """A method with steps of its own takes only how many and where; one that replaces takes noise for data."""
        from scorefield.editing.methods import Replacement

        walker, name = method.sampler(sampler), kind_of(type(method))
        is_other = type(getattr(walker, "inner", walker)) is not type(sampler)
        asked = [self.sampler, self.eta, self.order, self.variance]
        if is_other and any(each is not None for each in asked):
            say(f"{name} walks by steps of its own: of the sampler only --steps and --grid count")
        if self.noise > 0.0 and isinstance(method, Replacement):
            say(
                f"{name} takes the measurement as exact: its noise stays in the samples; repaint, ddrm and diffpir do not keep it"
            )

    # ── measurements ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _given(self, model: Model, operator: LinearOperator) -> tuple[np.ndarray, np.ndarray | None]:
        """Measurements (p, …), and what was measured where it is known. Raises UsageError."""
        from scorefield.editing.operators import Mask
        from scorefield.model_restoration import degraded

        if not self.degrade and not isinstance(operator, Mask):
            return self._read(model, operator)[None], None
        if not self.degrade and self.noise > 0.0 and self.image.lower().endswith(".npy") and self.first is None:
            return self._read(model, operator)[None], None  # noise leaves the range that data have
        clean = self._examples(model)
        if not self.degrade:
            return clean, None
        first = self.index or 0
        ys = degraded(model.config.representation, clean, operator, noise=self.noise, seed=self.seed, first=first)
        return ys, clean

    def _read(self, model: Model, operator: LinearOperator) -> np.ndarray:
        """One measurement from a file. Raises UsageError."""
        from scorefield.cli.pictures import array_of, decoded, header_of, require_file

        if self.index is not None or self.first is not None:
            raise UsageError("DATA hold clean examples, no measurements; add --degrade to measure them first")
        require_file(self.image)
        own, shape = model.config.representation, operator.measured_shape
        if self.image.lower().endswith(".npy"):
            return array_of(self.image)
        if len(shape) != len(own.shape):
            raise UsageError(f"{self.image}: this operator measures {shape} numbers; give them as a .npy file")
        wanted, found = replace(own, shape=shape, shift=own.shift[:1], scale=own.scale[:1]), header_of(self.image)
        if (found.height, found.width) != shape[1:] and not self.resize:
            raise UsageError(
                f"{self.image} is {found.height}×{found.width}, what was measured of the model's data is {'×'.join(map(str, shape[1:]))}; give such a picture, --resize, or --degrade for a clean one"
            )
        y = decoded(wanted, self.image, self.resize)
        _require_range(model, y, self.image)
        return y

    def _examples(self, model: Model) -> np.ndarray:
        """Clean examples (p, …). Raises UsageError."""
        from scorefield.cli.pictures import read_example

        if self.first is None:
            return read_example(model, self.model, self.image, self.index, self.resize)[0][None]

        dataset, representation = open_given(self.model, self.image), model.config.representation
        if self.first > len(dataset):
            raise UsageError(f"--first {self.first}: {self.image} has {len(dataset)} examples")
        if dataset.shape != representation.shape or (dataset.dtype.kind == "f") != (representation.levels is None):
            raise UsageError(
                f"{self.image} holds {dataset.dtype} of shape {dataset.shape}, the model's data are {representation.dtype} of {representation.shape}; give data of the model's kind"
            )
        clean = representation.own_layout(dataset.batch(range(self.first)))
        _require_range(model, clean, self.image)
        return clean

    # ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, model: Model, operator: LinearOperator, rows: Sequence[Restoration]) -> None:
        from scorefield.storage import write_bytes

        extension = os.path.splitext(self.out)[1].lower()
        if extension == ".png":
            write_bytes(self.out, strip(model, operator, rows))
        elif extension == ".npz":
            write_bytes(self.out, npz_bytes(_arrays(rows)))
        else:
            write_each(self.out, folder_files(model.config.representation, rows))

    def _result(
        self,
        task: str,
        method: Method,
        sampler: Sampler,
        evaluations: int,
        pictures: int,
        errors: Mapping[str, tuple[float, float]],
    ) -> dict[str, Any]:
        figures = {
            name: {"value": _finite(value), "standard_error": _finite(error)} for name, (value, error) in errors.items()
        }
        return {
            "out": self.out,
            "task": task,
            "pictures": pictures,
            "count": self.count,
            "seed": self.seed,
            "method": to_plain(method),
            "sampler": kind_of(type(sampler)),
            "steps": sampler.steps,
            "evaluations": evaluations,
            **figures,
        }


def _arrays(rows: Sequence[Restoration]) -> dict[str, np.ndarray]:
    """`samples` first; of one measurement (n, …), of several (p, n, …)."""
    import numpy as np

    parts = {
        "samples": [row.restored.samples for row in rows],
        "mean": [row.restored.mean for row in rows],
        "std": [row.restored.std for row in rows],
        "measurement": [row.measurement for row in rows],
        "original": [row.original for row in rows if row.original is not None],
    }
    return {name: np.stack(each) if len(rows) > 1 else each[0] for name, each in parts.items() if each}


def _require_range(model: Model, array: np.ndarray, source: str) -> None:
    representation = model.config.representation
    if representation.levels is None:
        return
    low, high = representation.low, representation.low + representation.levels - 1
    if array.min() < low or array.max() > high:
        raise UsageError(
            f"{source} holds values from {array.min()} to {array.max()}, the model's data go from {low} to {high}; bring it to that range"
        )


def _with_options(
    base: type[Record], kinds: Sequence[type], record: Record, options: Mapping[str, Any], what: str
) -> Record:
    """A record with options by name, those of a record within it by a dotted one. Raises UsageError."""
    from scorefield.model_config import KINDS

    plain = to_plain(record)
    for name, value in options.items():
        owner, _, inner = name.partition(".")
        place, last = (plain[owner], inner) if inner and isinstance(plain.get(owner), dict) else (plain, name)
        if last not in place or last == "kind":
            known = [field for field in plain if field != "kind"]
            raise unknown_name(f"option of the {what} {plain['kind']}", name, known or ["none"])
        place[last] = value
    return from_plain(base, plain, {**KINDS, base: kinds})


def _plain(name: str) -> str:
    """A name without hyphens."""
    return name.replace("-", "").replace("_", "")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
