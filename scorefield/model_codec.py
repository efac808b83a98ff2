"""A model's codec: its profiles, made from training data and kept beside the weights, and compressing with it.

profile = make_codec_profile(model, "path/to/training/images")
data = compress(model, images, profile)
images = decompress(model, data, profile)
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from scorefield.coding.archive import Picture, pack, unpack
from scorefield.coding.codec import Codec
from scorefield.coding.profile import FILE_LIMIT, NAMES, CodecProfile
from scorefield.coding.profile_fit import Effort, make_profile
from scorefield.errors import RefusedFileError, UsageError, unknown_name
from scorefield.model_calibration import weights_digest
from scorefield.networks.layers import Embedding
from scorefield.storage import read_bytes, write_bytes

if TYPE_CHECKING:
    from scorefield.model import Model

DEFAULT_EFFORT = Effort()
MOST_LEVELS = 4096
"""The most values whose frequencies, of 2¹⁶ in all, leave room for a law."""

logger = logging.getLogger(__name__)


def profile_file(folder: str | os.PathLike[str], name: str) -> Path:
    """Where a model folder keeps a profile. Raises UsageError for a name that is none."""
    if name not in NAMES:
        raise unknown_name("profile", name, NAMES)
    return Path(folder) / f"codec-{name}.safetensors"


def save_codec_profile(folder: str | os.PathLike[str], profile: CodecProfile) -> Path:
    """Write a profile beside a model; one that it replaces stays, under a name with its id. Raises StorageError."""
    file, data = profile_file(folder, profile.name), profile.to_bytes()
    if os.path.lexists(file) and read_bytes(file, FILE_LIMIT) != data:
        with suppress(RefusedFileError):
            old = CodecProfile.from_bytes(read_bytes(file, FILE_LIMIT), str(file))
            os.replace(file, file.with_name(f"codec-{old.name}-{old.id.hex()}.safetensors"))
    write_bytes(file, data)
    return file


def codec_profiles(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> Iterator[CodecProfile]:
    """All profiles of a model folder that belong to its weights and can be read, those that were replaced last.

    Example:
        >>> list(codec_profiles("no/such/folder", {}))
        []
    """
    digest = weights_digest(tensors)
    for file in sorted(Path(folder).glob("codec-*.safetensors"), key=lambda file: (len(file.name), file.name)):
        try:
            found = CodecProfile.from_bytes(read_bytes(file, FILE_LIMIT), str(file))
        except RefusedFileError as error:
            logger.warning("%s", error)
            continue
        if found.model == digest:
            yield found


def read_codec_profile(folder: str | os.PathLike[str], name: str, tensors: Mapping[str, Tensor]) -> CodecProfile | None:
    """A model folder's profile; None where there is none, or it belongs to other weights.

    Raises:
        RefusedFileError: the file is damaged or foreign.
    """
    file = profile_file(folder, name)
    if not os.path.lexists(file):
        return None
    found = CodecProfile.from_bytes(read_bytes(file, FILE_LIMIT), str(file))
    if found.model != weights_digest(tensors):
        logger.warning("the codec's profile '%s' belongs to other weights and is not used", name)
        return None
    return found


def require_levels(model: Model) -> int:
    """How many values the model's data have. Raises UsageError for continuous data, which no lossless code can hold."""
    levels = model.config.representation.levels
    if levels is None:
        raise UsageError(
            "the codec is of data of finitely many values, and this model is of continuous ones; train it on integers, such as 8-bit images"
        )
    if levels > MOST_LEVELS:
        raise UsageError(
            f"the codec is of data of at most {MOST_LEVELS:,} values, and this model's have {levels:,}; scale them down before training, or store their high and low bits apart"
        )
    return levels


def values_of(model: Model, batch: np.ndarray) -> np.ndarray:
    """Examples (n, C, *d) in the data's own units as whole numbers from 0.

    Raises:
        UsageError: continuous data, or values that the model's data do not have.
    """
    levels, low = require_levels(model), model.config.representation.low
    if batch.dtype.kind not in "iu":
        raise UsageError(
            f"the codec is of whole numbers, got {batch.dtype}; give data of the kind that the model was trained on"
        )
    values = batch.astype(np.int64) - low
    if values.size and (values.min() < 0 or values.max() >= levels):
        raise UsageError(
            f"the model's data have values from {low} to {low + levels - 1}, got {int(batch.min())} to {int(batch.max())}"
        )
    return values


def codec_of(model: Model, profile: CodecProfile, *, batch: int = 8) -> Codec:
    """The codec of a model and a profile: the denoiser in float64 on the processor, without guidance or labels."""
    from scorefield.model import make_denoiser

    if profile.model != weights_digest(model.tensors()):
        raise UsageError("the codec's profile belongs to another model; make one for this by make_codec_profile")
    network = copy.deepcopy(model.network).to("cpu").double().eval()
    for module in network.modules():
        if isinstance(module, Embedding):
            module.make_exact()
    return Codec(make_denoiser(model.config, network), profile, batch)


def make_codec_profile(
    model: Model,
    data: Any,
    *,
    name: str = "small",
    effort: Effort = DEFAULT_EFFORT,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
    **reading: Any,
) -> CodecProfile:
    """Make a profile for a model from its training data.

    Args:
        model: of data of finitely many values, trained without labels or with label dropout.
        data: training data, as `fit` takes them.
        name: `small`, `progressive` or `archive`.
        effort: how much to spend.
        seed: of what is random.
        progress: told what is being done.
        reading: how the data are read, as `open_data` takes it: size, layout.

    Raises:
        UsageError: continuous data, data of another shape, or too few.
    """
    from scorefield.data import open_data
    from scorefield.model import make_denoiser

    if name not in NAMES:
        raise unknown_name("profile", name, NAMES)
    levels = require_levels(model)
    dataset = open_data(data, **reading)
    if dataset.shape != model.config.shape:
        raise UsageError(
            f"the model is of data of shape {model.config.shape}, got {dataset.shape}; give its training data"
        )
    wanted = np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset))[
        : 2 * effort.examples + 8 * effort.curve
    ]
    values = values_of(model, dataset.batch(np.sort(wanted)))
    with model.evaluating():
        return make_profile(
            make_denoiser(model.config, model.network),
            values,
            levels,
            name=name,
            model=weights_digest(model.tensors()),
            mean=model.config.mean,
            effort=effort,
            seed=seed,
            progress=progress,
        )


def compress(model: Model, images: np.ndarray, profile: CodecProfile, *, seed: int = 0) -> bytes:
    """Samples in the data's own layout and dtype, as `Model.sample` gives them, without loss.

    Raises:
        UsageError: other values or another shape than the model's.

    Example:
        >>> import numpy as np, scorefield as sf
        >>> from scorefield.coding.profile_fit import Effort
        >>> data = np.random.default_rng(0).integers(0, 4, (40, 5, 6)).astype(np.uint8)
        >>> model = sf.fit(data, steps=2)
        >>> profile = sf.make_codec_profile(model, data, effort=Effort(curve=8, examples=20, steps=3, trial=2))
        >>> bool((sf.decompress(model, sf.compress(model, data, profile), profile) == data).all())
        True
    """
    values = values_of(model, model.config.representation.channels_first(np.asarray(images)))
    archive, _ = pack(codec_of(model, profile), [Picture(value) for value in values], seed=seed)
    return archive


def decompress(model: Model, data: bytes, profile: CodecProfile) -> np.ndarray:
    """What `compress` was given; of the front of an archive, as good as it allows.

    Raises:
        CodecError: damaged, or of another model.
    """
    found = unpack(codec_of(model, profile), data)
    shapes = {picture.values.shape for picture in found.pictures}
    if len(shapes) != 1:
        raise UsageError("the archive holds pictures of several sizes; unpack it with `scorefield decompress`")
    values = np.stack([picture.values.astype(np.int64) for picture in found.pictures]) + model.config.representation.low
    return model.config.representation.own_layout(values.astype(model.config.representation.dtype))


__all__ = [
    "CodecProfile",
    "Effort",
    "codec_of",
    "codec_profiles",
    "compress",
    "decompress",
    "make_codec_profile",
    "profile_file",
    "read_codec_profile",
    "require_levels",
    "save_codec_profile",
    "values_of",
]
