"""`scorefield invert`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.common import check_out, numbered_files, open_given, print_json, say, write_each
from scorefield.cli.editing import Editing, check_count, write_arrays
from scorefield.errors import UsageError
from scorefield.records import from_plain, kind_of, to_plain

if TYPE_CHECKING:
    import numpy as np

    from scorefield.model import Model
    from scorefield.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class InvertCommand(Editing):
    """Find the latents of data, their places in pure noise by the probability flow; with --decode the data of latents.

    Each example has one code, and the flow leads back to it. What is lost on the way there and back is measured. Guidance and
    clipping take no part: they make another flow.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """An image file, a .npy file, or any DATA; with --decode the .npz file that this command wrote."""

    out: str
    """X.npz of `latents`; with --decode X.png, X.npz or a folder."""

    decode: bool = False
    """Go from latents to data."""

    temperature: float = 1.0
    """With --decode: what the latents are multiplied by; below 1 is more typical."""

    count: Annotated[int | None, tyro.conf.arg(name="n", aliases=("-n",))] = None
    """How many of DATA, from the first; all without it."""

    index: int | None = None
    """Which example of DATA."""

    resize: bool = False
    """Bring a picture of another size to the model's."""

    float64: bool = False
    """Let the network compute in 64 bits."""

    def run(self) -> int:
        """Invert and measure, or decode."""
        check_out(self.out, (".png", ".npz", "") if self.decode else (".npz",), self.source)
        if self.temperature != 1.0 and not self.decode:
            raise UsageError("--temperature scales latents on their way back; add --decode")
        if self.count is not None:
            check_count(self.count)
        model = self._loaded()
        result = self._decoded(model) if self.decode else self._inverted(model)
        if self.json:
            print_json({"out": self.out, **result})
        return 0

    def _inverted(self, model: Model) -> dict[str, Any]:
        """Latents into a file, with the sampler and the class that they were made by."""
        import numpy as np

        from scorefield.editing.latents import inverter
        from scorefield.model_editing import invert, round_trip_errors

        sampler = self._flow(self._chosen(inverter(model.config.path)))
        sampler.times(model.config.path)
        x, told = self._data(model), self._told(model)
        options: dict[str, Any] = {"sampler": sampler, "batch": self.batch, "float64": self.float64, **told}
        say(f"inverting {len(x)} by {kind_of(type(sampler))} in {sampler.steps} steps")
        latents = invert(model, x, **options)
        errors = round_trip_errors(model, x, latents, **options)
        error, size = float(np.sqrt((errors**2).mean())), float(np.sqrt((latents.astype(np.float64) ** 2).mean()))
        print(f"round trip      {error:.4g} root mean squared, in the data's own unit; at most {errors.max():.4g}")
        print(f"latents' size   {size:.4f} root mean squared (1 is the prior's)")
        how = json.dumps({"sampler": to_plain(sampler), "class": self.class_, "float64": self.float64})
        condition = told["condition"]
        write_arrays(self.out, {"latents": latents, "how": np.array(how), "condition": condition})
        about = {"count": len(x), "sampler": kind_of(type(sampler)), "steps": sampler.steps}
        return {**about, "evaluations": sampler.evaluations(), "round_trip": error, "size": size}

    def _decoded(self, model: Model) -> dict[str, Any]:
        """Data from a file of latents, by the sampler that it names unless another is asked for."""
        latents, how, condition = _read_latents(self.source)
        from scorefield.model_editing import decode_latents

        sampler = self._flow(self._chosen(_sampler_in(how, self.source)))
        told = self._told(model, how.get("class"))
        told["condition"] = told["condition"] if self.condition is not None else condition
        samples = decode_latents(
            model,
            latents[: self.count],
            sampler=sampler,
            temperature=self.temperature,
            batch=self.batch,
            float64=self.float64 or bool(how.get("float64")),
            **told,
        )
        self._write(model, samples)
        say(f"decoded {len(samples)} into {self.out}")
        return {"count": len(samples), "sampler": kind_of(type(sampler)), "steps": sampler.steps}

    def _write(self, model: Model, samples: np.ndarray) -> None:
        extension = os.path.splitext(self.out)[1].lower()
        if extension == ".png":
            from scorefield.fitting import picture_of
            from scorefield.storage import write_bytes

            write_bytes(self.out, picture_of(model, samples))
        elif extension == ".npz":
            write_arrays(self.out, {"samples": samples})
        else:
            write_each(self.out, numbered_files(samples, model.config.representation))

    def _flow(self, sampler: Sampler) -> Sampler:
        if not sampler.is_deterministic:
            raise UsageError(
                f"{kind_of(type(sampler))} draws noise, and a code is of the flow, which has none; use a deterministic sampler, such as unipc or ddim"
            )
        return sampler

    def _data(self, model: Model) -> np.ndarray:
        """Examples (n, …). Raises UsageError."""
        import numpy as np

        from scorefield.cli.pictures import is_one_example, read_example

        if is_one_example(model, self.source) or self.index is not None:
            if self.count is not None and self.count > 1:
                raise UsageError(f"-n {self.count} is of data without --index, and here is one example; leave -n out")
            return read_example(model, self.model, self.source, self.index, self.resize)[0][None]
        from scorefield.cli.held_out import require_kind

        dataset = open_given(self.model, self.source)
        require_kind(model, dataset)
        if self.count is not None and self.count > len(dataset):
            raise UsageError(f"-n {self.count}: {self.source} has {len(dataset)} examples; give at most so many")
        chosen = np.arange(self.count or len(dataset))
        return model.config.representation.own_layout(dataset.batch(chosen))


def _read_latents(path: str) -> tuple[np.ndarray, dict[str, Any], np.ndarray | None]:
    """Latents, how they were made, and their condition. Raises UsageError."""
    import zipfile
    import zlib

    import numpy as np

    if not os.path.isfile(path):
        raise UsageError(f"no file '{path}'; give the .npz file that `scorefield invert` wrote")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("no .npz file")
        with np.load(path, allow_pickle=False) as arrays:
            how = json.loads(str(arrays["how"]))
            if not isinstance(how, dict) or not isinstance(how.get("sampler"), dict):
                raise ValueError("it does not say how they were made")
            condition = arrays["condition"] if "condition" in arrays.files else None
            return arrays["latents"], how, condition
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UsageError(f"{path}: not a file of latents ({error}); make one with `scorefield invert`") from None


def _sampler_in(how: dict[str, Any], path: str) -> Sampler:
    from scorefield.model_config import KINDS
    from scorefield.samplers import Sampler

    try:
        return from_plain(Sampler, how["sampler"], KINDS)  # type: ignore[type-abstract]
    except (UsageError, KeyError) as error:
        raise UsageError(f"{path}: its sampler cannot be read ({error}); say which with --sampler") from None
