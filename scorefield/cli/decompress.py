"""`scorefield decompress`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import Command, load_model, print_json, require_parent, say, set_threads
from scorefield.cli.compress import profile_of
from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.coding.archive import Picture, Unpacked
    from scorefield.model import Model

_ARRAYS = (".npy", ".npz")
_LARGEST_ARCHIVE = 1 << 36


@dataclass(frozen=True)
class DecompressCommand(Command):
    """Get pictures or data back from an archive; from the front of one, as good as it allows.

    A whole archive comes back exactly, or not at all. Of a part of one (`--bytes`, or a file that is cut) the pictures are
    shown as far as it goes, and the result says that they are not exact.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's or model's folder that compressed it."""

    archive: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARCHIVE")]
    """X.sfz."""

    out: str
    """A folder for images (.png), or X.npy or X.npz for one array."""

    prefix: Annotated[int | None, tyro.conf.arg(name="bytes")] = None
    """Read only so many bytes: a coarser picture."""

    strict: bool = False
    """Refuse an archive that is cut."""

    profile: str | None = None
    """Which profile it was made with; found out without it."""

    batch: int = 8
    """Examples at a time."""

    threads: int | None = None
    """Processor threads."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Read, decompress, write, say."""
        if self.batch < 1 or (self.prefix is not None and self.prefix < 1):
            raise UsageError(f"decompressing needs --batch ≥ 1 and --bytes ≥ 1, got {self.batch} and {self.prefix}")
        require_parent(self.out)
        set_threads(self.threads)
        from scorefield.storage import read_bytes

        if not os.path.isfile(self.archive):
            raise UsageError(f"no file '{self.archive}'; give an archive that `scorefield compress` wrote")
        data = read_bytes(self.archive, _LARGEST_ARCHIVE)[: self.prefix]
        model = load_model(self.model, "cpu", calibrated=False)
        found = self._unpacked(model, data)
        files = _write(model, found, self.out)
        exactly = "exactly" if found.lossless else f"not exactly: {found.exact:.1%} of the values are certain"
        say(f"{len(found.pictures)} pictures from {len(data)} bytes, {exactly}, in {self.out}")
        if self.json:
            print_json(
                {
                    "out": self.out,
                    "pictures": len(found.pictures),
                    "files": files,
                    "bytes": len(data),
                    "lossless": found.lossless,
                    "exact": found.exact,
                    "steps": found.steps[0],
                    "of_steps": found.steps[1],
                }
            )
        return 0

    def _unpacked(self, model: Model, data: bytes) -> Unpacked:
        """The archive by the profile that it names. Raises CodecError."""
        from scorefield.coding.archive import unpack
        from scorefield.coding.bitstream import ModelMismatchError
        from scorefield.coding.profile import NAMES
        from scorefield.model_codec import codec_of, profile_file

        names = [self.profile] if self.profile else [n for n in NAMES if os.path.lexists(profile_file(self.model, n))]
        failure: ModelMismatchError | None = None
        for name in names or ["small"]:
            codec = codec_of(model, profile_of(model, self.model, name, may_make=False), batch=self.batch)
            try:
                return unpack(codec, data, strict=self.strict)
            except ModelMismatchError as error:
                failure = error
        raise failure or UsageError(f"{self.model} has no codec profile")


def _write(model: Model, found: Unpacked, out: str) -> int:
    """Write the pictures, in the data's own units; how many files that made."""
    import numpy as np

    from scorefield.storage import write_bytes

    own = [model.config.representation.own_layout(_in_units(model, picture))[0] for picture in found.pictures]
    if out.endswith(_ARRAYS):
        if len({array.shape for array in own}) > 1:
            raise UsageError(f"--out {out}: the pictures have several sizes, which no one array holds; give a folder")
        write_bytes(out, _array_bytes(np.stack(own), out))
        return 1
    os.makedirs(out, exist_ok=True)
    for picture, array in zip(found.pictures, own, strict=True):
        parts = _safe(picture.name)
        folder = Path(out, *parts[:-1])
        os.makedirs(folder, exist_ok=True)
        shown = array[..., 0] if picture.is_grey else array
        suffix, data = (".png", _png(shown)) if _is_image(model) else (".npy", _array_bytes(shown, ".npy"))
        write_bytes(folder / (parts[-1] + suffix), data)
    return len(own)


def _in_units(model: Model, picture: Picture) -> np.ndarray:
    """(1, C, *d) in the data's dtype."""
    representation = model.config.representation
    return (picture.values + representation.low).astype(representation.dtype)[None]


def _is_image(model: Model) -> bool:
    """Whether PNG files can hold the pixels."""
    representation = model.config.representation
    channels = {"uint8": (1, 3, 4), "uint16": (1,)}.get(representation.dtype, ())
    return representation.layout == "image" and representation.shape[0] in channels


def _png(pixels: np.ndarray) -> bytes:
    from scorefield.evaluation.pictures import lossless_png

    return lossless_png(pixels)


def _safe(name: str) -> tuple[str, ...]:
    """A name's parts, none of which leads out of the folder: it comes from a file that anybody may have written."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".", "")]
    clean = ["".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in part)[:200] for part in parts]
    return tuple(clean) or ("picture",)


def _array_bytes(array: np.ndarray, out: str) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    if out.endswith(".npz"):
        np.savez(buffer, samples=array)
    else:
        np.save(buffer, array)
    return buffer.getvalue()
