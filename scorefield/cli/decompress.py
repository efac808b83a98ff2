"""`scorefield decompress`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import (
    Command,
    as_file,
    load_model,
    npy_bytes,
    npz_bytes,
    print_json,
    require_parent,
    say,
    set_threads,
)
from scorefield.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from scorefield.coding.archive import Picture, Unpacked
    from scorefield.model import Model

_ARRAYS = (".npy", ".npz")
_LARGEST_ARCHIVE = 1 << 36
_DEEPEST, _LONGEST = 16, 200


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
        if not self.out.endswith(_ARRAYS) and os.path.isfile(self.out):
            raise UsageError(f"--out {self.out} is a file; name a folder for images, or X.npy or X.npz for one array")
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
        from scorefield.model_codec import codec_of, codec_profiles

        failure: ModelMismatchError | None = None
        for profile in codec_profiles(self.model, model.tensors()):
            try:
                return unpack(codec_of(model, profile, batch=self.batch), data, strict=self.strict)
            except ModelMismatchError as error:
                failure = error
        raise failure or UsageError(
            f"{self.model} has no codec profile of its weights, and without the one that a file was compressed with it cannot be read; get it from where the file was made"
        )


def _write(model: Model, found: Unpacked, out: str) -> int:
    """Write the pictures, in the data's own units; how many files that made."""
    import numpy as np

    from scorefield.storage import storage_errors, write_bytes

    own = [model.config.representation.own_layout(_in_units(model, picture))[0] for picture in found.pictures]
    if out.endswith(_ARRAYS):
        if len({array.shape for array in own}) > 1:
            raise UsageError(f"--out {out}: the pictures have several sizes, which no one array holds; give a folder")
        whole = np.stack(own)
        write_bytes(out, npz_bytes({"samples": whole}) if out.endswith(".npz") else npy_bytes(whole))
        return 1
    files, folders = set[str](), set[str]()
    for number, (picture, array) in enumerate(zip(found.pictures, own, strict=True)):
        suffix, data = as_file(array[..., 0] if picture.is_grey else array, model.config.representation)
        file = Path(out, _unlike(files, folders, "/".join(_safe(picture.name)) + suffix, number))
        with storage_errors("write", file):
            os.makedirs(file.parent, exist_ok=True)
        write_bytes(file, data)
    return len(own)


def _unlike(files: set[str], folders: set[str], name: str, number: int) -> str:
    """The file's name, or one with the picture's number before its suffix where another file or folder has it."""
    stem, dot, suffix = name.rpartition(".")
    while True:
        plain = name.lower()
        above = {str(parent) for parent in Path(plain).parents} - {"."}
        if plain not in files | folders and not above & files:
            files.add(plain)
            folders.update(above)
            return name
        stem = f"{stem.replace('/', '-')}-{number:06d}"
        name = stem + dot + suffix


def _in_units(model: Model, picture: Picture) -> np.ndarray:
    """(1, C, *d) in the data's dtype."""
    import numpy as np

    representation = model.config.representation
    return (picture.values.astype(np.int64) + representation.low).astype(representation.dtype)[None]


def _safe(name: str) -> tuple[str, ...]:
    """A name's parts, none of which leads out of the folder: it comes from a file that anybody may have written."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("..", ".", "")][-_DEEPEST:]
    clean = ["".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in part) for part in parts]
    return tuple(part.encode()[:_LONGEST].decode(errors="ignore") for part in clean) or ("picture",)
