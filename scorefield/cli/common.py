"""What the commands share: their arguments in common, speaking, and writing results."""

from __future__ import annotations

import json
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.data import Dataset
    from scorefield.data.representation import Representation
    from scorefield.model import Model
    from scorefield.training.configuration import RunConfig


@dataclass(frozen=True)
class Command(ABC):
    """A command with its arguments."""

    @abstractmethod
    def run(self) -> int:
        """Do it; return the exit code."""


def say(text: str) -> None:
    """A line for people, on standard error."""
    with suppress(OSError):
        print(text if text.startswith("scorefield") else f"scorefield: {text}", file=sys.stderr, flush=True)


def print_json(result: Mapping[str, Any]) -> None:
    """The one JSON object that ends standard output."""
    print(json.dumps(result), flush=True)


def set_threads(count: int | None) -> None:
    """Use so many processor threads; PyTorch's own choice where None.

    Raises:
        UsageError: not a number of threads.
    """
    if count is None:
        return
    if not 1 <= count <= 4096:
        raise UsageError(f"--threads must be between 1 and 4096, got {count}")
    import torch

    torch.set_num_threads(count)


def load_model(run: str, device: str | None, *, calibrated: bool = True) -> Model:
    """The model of a run, on a device that is there. Raises what `load` and `choose_device` raise."""
    if not os.path.isdir(run):
        raise UsageError(f"no run folder at '{run}'; give the folder that `scorefield train … --out` wrote")
    from scorefield.model import load
    from scorefield.training.processes import choose_device

    return load(run, device=choose_device(device), calibrated=calibrated)


def label_dropout(run: str) -> float | None:
    """The share of examples that a run was trained on without their label; None for a model without its run."""
    requested = _requested(run)
    return None if requested is None else requested.label_dropout


def trained_with_flips(run: str) -> bool:
    """Whether a run mirrored its examples as often as not."""
    requested = _requested(run)
    return requested is not None and requested.data.flip


def reading_of(run: str) -> dict[str, Any]:
    """How a run read its data, as `open_data` takes it; the defaults for a model without its run.

    A condition's columns are among it, as they are no data; a file of one is not, as it belongs to the training data alone.
    """
    from scorefield.data.conditions import is_file

    requested = _requested(run)
    if requested is None:
        return {}
    data = requested.data
    reading = {"size": data.size, "layout": data.layout, "skip_bad": data.skip_bad}
    return reading if data.condition is None or is_file(data.condition) else reading | {"condition": data.condition}


def open_given(run: str, source: str) -> Dataset:
    """Data that are given to a run's model, read as the run read its own. Its condition's columns are no data; here they may be missing.

    Raises:
        UsageError: they cannot be read.
    """
    from scorefield.data import open_data

    reading = reading_of(run)
    try:
        return open_data(source, **reading)
    except UsageError:
        if reading.pop("condition", None) is None:
            raise
        return open_data(source, **reading)


def _requested(run: str) -> RunConfig | None:
    from scorefield.storage import read_json
    from scorefield.training.configuration import read_configuration

    file = os.path.join(run, "run.json")
    return read_configuration(read_json(file)["requested"]) if os.path.isfile(file) else None


def as_file(sample: np.ndarray, representation: Representation) -> tuple[str, bytes]:
    """One sample as a file of its own, exactly: .png for 8-bit and grey 16-bit images, .npy for all other data."""
    from scorefield.evaluation.pictures import lossless_png

    channels = {"uint8": (1, 3, 4), "uint16": (1,)}.get(sample.dtype.name, ())
    if representation.layout == "image" and representation.shape[0] in channels:
        return ".png", lossless_png(sample)
    return ".npy", npy_bytes(sample)


def numbered_files(
    samples: Sequence[np.ndarray] | np.ndarray, representation: Representation, first: int = 0
) -> Iterator[tuple[str, bytes]]:
    """Samples as files by name: 000000.png …, or .npy."""
    for number, sample in enumerate(samples, start=first):
        suffix, data = as_file(sample, representation)
        yield f"{number:06d}{suffix}", data


def write_each(out: str, files: Iterable[tuple[str, bytes]], *, adds: bool = False) -> None:
    """Files into a folder by name, `a/b.png` into one within it. What was there before, and may be an earlier call's, is said where nothing was to be added.

    Raises:
        StorageError: one cannot be written; those before it are there.
    """
    from scorefield.storage import write_bytes

    folder, written = Path(out), set()
    folder.mkdir(exist_ok=True)
    for name, data in files:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        write_bytes(str(file), data)
        written |= {file, file.parent}
    folders = {folder, *(path for path in written if path.is_dir())}
    others = sorted(path for each in folders for path in each.iterdir() if path not in written)
    if others and not adds:
        say(f"{out} still holds {len(others)} from before beside what was written, such as {others[0].name}")


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name, in their order, as a .npz file."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def check_out(out: str, known: Sequence[str], *inputs: str | None) -> str:
    """The extension of an output, which is one of those ('' for a folder) and nothing that is read. Raises UsageError."""
    require_name(out)
    extension = os.path.splitext(out)[1].lower()
    if extension not in known:
        names = ", ".join(f"X{each}" if each else "a folder" for each in known)
        raise UsageError(f"--out {out}: cannot write '{extension or 'a folder'}'; use {names}")
    if os.path.isdir(out) and extension:
        raise UsageError(f"--out {out} is a folder; name a file in it")
    if not extension and os.path.lexists(out) and not os.path.isdir(out):
        raise UsageError(f"--out {out} is a file, not a folder; name a new one, or X.png or X.npz")
    for each in inputs:
        if each and os.path.exists(out) and os.path.exists(each) and _would_lose(out, each):
            kind = "a file that is read" if os.path.isfile(out) else f"a folder that {each} is read from"
            raise UsageError(f"--out {out} is {kind}, and would be lost; name another")
    require_parent(out)
    return extension


_WRITTEN = re.compile(r"\d{6,}|mean|std|measurement|original")
"""The names, but for what follows the dot, of what is written into folders."""


def _would_lose(out: str, source: str) -> bool:
    """Whether what is written goes over what is read: the same file or folder, or a file in that folder with a name of those written."""
    if os.path.samefile(out, source):
        return True
    folder, name = os.path.split(os.path.abspath(source))
    is_inside = os.path.isdir(out) and os.path.isfile(source) and os.path.samefile(out, folder)
    return is_inside and _WRITTEN.fullmatch(os.path.splitext(name)[0]) is not None


def require_name(out: str) -> None:
    """Refuse an output without a name, such as an unset variable's: a folder would be the one that the user is in. Raises UsageError."""
    if not out:
        raise UsageError("--out is empty; name a file or a folder")


def require_parent(out: str) -> None:
    """Refuse an output whose folder is missing, before hours are spent on it. Raises UsageError."""
    parent = os.path.dirname(os.path.abspath(out))
    if not os.path.isdir(parent):
        raise UsageError(f"--out {out}: there is no folder '{parent}'; make it first")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"--out {out}: the folder '{parent}' cannot be written to")


def whole_numbers(text: str, option: str) -> list[int]:
    """Numbers with commas between them. Raises UsageError."""
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(
            f"{option} takes whole numbers with commas between them, such as 4,6,8; got '{text}'"
        ) from None
    return numbers
