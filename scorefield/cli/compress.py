"""`scorefield compress`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import tyro

from scorefield.cli.common import Command, load_model, print_json, reading_of, require_parent, say, set_threads
from scorefield.errors import RefusedFileError, UsageError, unknown_name

if TYPE_CHECKING:
    import numpy as np

    from scorefield.coding.archive import Picture
    from scorefield.coding.codec import Codec, Ledger
    from scorefield.coding.profile import CodecProfile
    from scorefield.model import Model


@dataclass(frozen=True)
class CompressCommand(Command):
    """Compress pictures or data by a model: exact in the end, and a coarser picture at every prefix of the file.

    Needs the same model and profile to be read again. Pictures larger than the model's are cut into tiles. The first use makes
    the profile (see `scorefield codec-profile`) from the run's training data.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES")]
    """Image files, folders of them, or any other data (.npy, IDX, a built-in name)."""

    out: str
    """The archive, X.sfz."""

    profile: str = "small"
    """small, progressive or archive."""

    verify: bool = False
    """Decode what was made, otherwise (by other batches), before it is written."""

    first: int | None = None
    """Only so many examples, the first ones."""

    names: bool = True
    """Keep the names of image files; --no-names saves their bytes."""

    seed: int = 0
    """Of the shared randomness, 0 to 15: any does."""

    batch: int = 8
    """Examples at a time."""

    threads: int | None = None
    """Processor threads."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Read, compress, write, say."""
        self._check()
        set_threads(self.threads)
        from scorefield.coding.archive import pack
        from scorefield.model_codec import codec_of
        from scorefield.storage import write_bytes

        model = load_model(self.model, "cpu", calibrated=False)
        pictures = self._pictures(model)
        codec = codec_of(model, profile_of(model, self.model, self.profile), batch=self.batch)
        archive, ledgers = pack(
            codec,
            pictures,
            seed=self.seed,
            verify=_Verifier(codec) if self.verify else None,
            progress=lambda done: say(f"{done} examples"),
        )
        write_bytes(self.out, archive)
        values = sum(ledger.values for ledger in ledgers)
        bits = 8 * len(archive) / values
        say(f"{len(pictures)} pictures in {len(archive)} bytes, {bits:.3f} bits a value, in {self.out}")
        if self.json:
            print_json(self._result(len(pictures), archive, ledgers))
        return 0

    def _check(self) -> None:
        from scorefield.coding.profile import NAMES

        if not self.files:
            raise UsageError("there is nothing to compress; name files of pictures, a folder, or data")
        if not 0 <= self.seed < 16 or self.batch < 1 or (self.first is not None and self.first < 1):
            raise UsageError(
                f"compressing needs a --seed of 0 to 15, --batch ≥ 1 and --first ≥ 1, got {self.seed}, {self.batch}, {self.first}"
            )
        if self.profile not in NAMES:
            raise unknown_name("profile", self.profile, NAMES)
        require_parent(self.out)
        if any(
            os.path.exists(file) and os.path.exists(self.out) and os.path.samefile(file, self.out)
            for file in self.files
        ):
            raise UsageError(f"--out {self.out} is one of the files to compress; name another")
        if os.path.isdir(self.out):
            raise UsageError(f"--out {self.out} is a folder; name a file, such as archive.sfz")

    def _pictures(self, model: Model) -> list[Picture]:
        from scorefield.model_codec import require_levels

        require_levels(model)
        found: list[Picture] = []
        for file in self.files:
            found += read_pictures(model, self.model, file, keep_names=self.names)
            if self.first is not None and len(found) >= self.first:
                return found[: self.first]
        return found

    def _result(self, count: int, archive: bytes, ledgers: list[Ledger]) -> dict[str, object]:
        values = sum(ledger.values for ledger in ledgers)
        bound = sum(ledger.bound for ledger in ledgers)
        return {
            "out": self.out,
            "pictures": count,
            "bytes": len(archive),
            "bits_per_value": 8 * len(archive) / values,
            "bound_bits_per_value": bound / values,
            "overhead": 8 * len(archive) / bound - 1.0 if bound else None,
            "header_bits": 8 * len(archive) - sum(ledger.total - ledger.header for ledger in ledgers),
            "chain_bits": sum(sum(ledger.chain) for ledger in ledgers),
            "last_stage_bits": sum(ledger.last for ledger in ledgers),
            "stored_bits": sum(ledger.stored for ledger in ledgers),
        }


@dataclass(frozen=True, eq=False)
class _Verifier:
    """Decodes a stream as another receiver would: by batches of another size, on one thread."""

    codec: Codec

    def __call__(self, data: bytes, values: np.ndarray) -> bool:
        """Whether it comes back."""
        from dataclasses import replace

        import numpy as np
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            decoded = replace(self.codec, batch=self.codec.batch // 3 or 5).decode(data)
        except RefusedFileError:
            return False
        finally:
            torch.set_num_threads(threads)
        return decoded.lossless and bool(np.array_equal(decoded.values, values))


def profile_of(model: Model, run: str, name: str) -> CodecProfile:
    """A run's profile, made now where there is none."""
    from scorefield.cli.codec_profile import made
    from scorefield.model_codec import read_codec_profile, save_codec_profile

    found = read_codec_profile(run, name, model.tensors())
    if found is not None:
        return found
    profile = made(model, run, name, None, {})
    save_codec_profile(run, profile)
    return profile


def read_pictures(model: Model, run: str, file: str, *, keep_names: bool = True) -> list[Picture]:
    """What a path holds: an image, a folder of images in any sizes, or any data of the model's shape.

    Raises:
        UsageError: nothing there, or nothing that the model can code.
    """
    from scorefield.data.images import SUFFIXES

    path = Path(file)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [_image(model, path, path.stem if keep_names else "")]
    if path.is_dir():
        from scorefield.data.folders import list_images

        listing = list_images(path)
        names = [(name, str(name.with_suffix("")) if keep_names else "") for name, _ in listing.files]
        if names:
            return [_image(model, path / name, called) for name, called in names]
    return _data(model, run, file)


def _image(model: Model, path: Path, name: str) -> Picture:
    import numpy as np

    from scorefield.coding.archive import Picture
    from scorefield.data.images import CHANNELS, ImageError, decode, read_header, strict_pillow
    from scorefield.model_codec import values_of

    channels = model.config.shape[0] if len(model.config.shape) == 3 else 0
    try:
        with strict_pillow(), path.open("rb") as stream:
            header = read_header(stream)
            stream.seek(0)
            pixels = decode(stream, header.kind)
            lost = "transparency" if _is_transparent(stream) else "frames" if header.animated else ""
    except (ImageError, OSError) as error:
        raise UsageError(f"{path}: {error}") from None
    if lost:
        raise UsageError(f"{path}: the picture has {lost}, which the codec does not keep; save it without")
    if pixels.dtype != model.config.representation.dtype:
        raise UsageError(
            f"{path}: the picture is of {pixels.dtype}, and the model of {model.config.representation.dtype}"
        )
    is_grey = CHANNELS[header.kind] == 1 and channels == 3
    if is_grey:
        pixels = np.repeat(pixels, 3, axis=0)
    if len(pixels) != channels:
        raise UsageError(
            f"{path}: the picture has {len(pixels)} channel(s), and the model is of shape {model.config.shape}; give pictures of its kind"
        )
    return Picture(values_of(model, pixels[None])[0], name, is_grey)


def _is_transparent(stream: BinaryIO) -> bool:
    from PIL import Image

    stream.seek(0)
    with Image.open(stream) as image:
        return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def _data(model: Model, run: str, file: str) -> list[Picture]:
    import numpy as np

    from scorefield.coding.archive import Picture
    from scorefield.data import open_data
    from scorefield.model_codec import values_of

    dataset = open_data(file, layout=reading_of(run).get("layout"))
    if dataset.shape != model.config.shape:
        raise UsageError(f"{file}: the data are of shape {dataset.shape}, and the model's {model.config.shape}")
    return [Picture(values) for values in values_of(model, dataset.batch(np.arange(len(dataset))))]
