"""Guides, masks and other pictures that a command is given: read, checked against the model, and in the data's own units.

A guide is an image file, a .npy file of one example as `sample` lays it out, or an example of any DATA by its index. A mask is an
image file or a .npy file with one value a pixel, two different ones at most: white is what may change, or is to be filled.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scorefield.cli.common import open_given, say
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.data.images import Header, Kind
    from scorefield.data.representation import Representation
    from scorefield.model import Model

_KINDS: dict[tuple[str, int], Kind] = {("uint8", 1): "grey", ("uint8", 3): "colour", ("uint16", 1): "grey16"}
_WHITE = 128


def read_image(model: Model, path: str, resize: bool = False) -> np.ndarray:
    """One example from an image or .npy file, as the model lays examples out, in the data's units and dtype.

    Args:
        model: whose data it must be like.
        path: a .png, .jpg, .webp, .bmp, .gif or .tif file, or a .npy file. Grey becomes colour for a model of colour; colour
            whose channels are equal is grey. Transparency is put on white.
        resize: bring an image of another size to the model's: the shorter side, then a centred crop; says so.

    Raises:
        UsageError: no such file, not an image, or another size, kind or range than the model's data have.
    """
    require_file(path)
    array = array_of(path) if path.lower().endswith(".npy") else decoded(model.config.representation, path, resize)
    return _checked(model, array, path)


def read_example(
    model: Model, run: str, source: str, index: int | None = None, resize: bool = False
) -> tuple[np.ndarray, str | None]:
    """One example, and the name of its class where there is one: of a file as `read_image` reads it, or of any DATA by its index.

    Raises:
        UsageError: as `read_image`; or an index that there is not, or that is needed and missing.
    """
    if is_one_example(model, source):
        if index is not None:
            raise UsageError(f"{source} is one example; leave --index out")
        return read_image(model, source, resize), None

    dataset = open_given(run, source)
    if index is None:
        raise UsageError(f"{source} holds {len(dataset)} examples; say which with --index, 0 … {len(dataset) - 1}")
    if not 0 <= index < len(dataset):
        raise UsageError(f"--index {index}: {source} has the examples 0 … {len(dataset) - 1}")
    if dataset.shape != model.config.representation.shape:
        raise UsageError(_of_another_shape(model, source, dataset.shape))
    array = model.config.representation.own_layout(dataset.batch([index]))[0]
    name = None if dataset.labels is None else dataset.class_names[dataset.labels[index]]
    return _checked(model, array, source), name


def read_mask(model: Model, path: str, *, resize: bool = False, threshold: float | None = None) -> np.ndarray:
    """A mask as booleans of the shape of a picture without its channels: True where it is white, where x may change.

    Args:
        model: whose data it masks.
        path: an image file, or a .npy file of the shape (*d).
        resize: bring an image of another size to the model's.
        threshold: values from it on are white; needed where there are more than two.

    Raises:
        UsageError: another size, colours, or more than two values and no threshold.
    """
    require_file(path)
    size = picture_shape(model)
    values = array_of(path) if path.lower().endswith(".npy") else _grey(path)
    _require_one_value_a_pixel(values, size, path)
    white = _as_white(values, path, threshold)
    if white.shape != size and resize and white.ndim == len(size) == 2:
        from scorefield.data.images import resized

        say(f"mask {path} is brought from {_words(white.shape)} to {_words(size)}")
        white = resized(np.where(white, 255, 0).astype(np.uint8), (size[0], size[1])) >= _WHITE
    if white.shape != size:
        raise UsageError(
            f"mask {path} is {_words(white.shape)}, the model's data are {_words(size)}; give one of that size{_or_resize(size) if white.ndim == len(size) else ''}"
        )
    return white


def picture_shape(model: Model) -> tuple[int, ...]:
    """The shape of one example without its channels: (H, W), (L,), (D, H, W); (D,) of points."""
    shape = model.config.representation.shape
    return shape[1:] or shape


def is_one_example(model: Model, source: str) -> bool:
    """Whether a source is one example by itself: an image file, or a .npy file of one example's shape."""
    from scorefield.data.images import SUFFIXES

    suffix = os.path.splitext(source)[1].lower()
    if suffix == ".npy" and os.path.isfile(source):
        return array_of(source).shape == _own_shape(model)
    return suffix in SUFFIXES


def require_file(path: str) -> None:
    """Refuse a file that is not there. Raises UsageError."""
    if not os.path.isfile(path):
        raise UsageError(f"no file '{path}'; give an image (.png, .jpg, …) or a .npy file")


def array_of(path: str) -> np.ndarray:
    """The array of a .npy file. Raises UsageError."""
    from scorefield.data.arrays import read_npy

    return read_npy(Path(path), any_values=True)


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def decoded(representation: Representation, path: str, resize: bool = False) -> np.ndarray:
    """The pixels of an image file as a representation lays them out. Raises UsageError."""
    channels, size = representation.shape[0], representation.shape[1:]
    kind = _KINDS.get((representation.dtype, channels))
    if representation.layout != "image" or kind is None:
        raise UsageError(
            f"{path}: {representation.dtype} data of shape {representation.shape} are wanted, which image files do not hold; give a .npy file"
        )
    pixels, header = _pixels(path, kind, _required_size(size, path, resize))
    if channels == 1 and header.kind == "colour":
        pixels = _grey_of(pixels, path)
    return representation.own_layout(pixels[None])[0]


def _required_size(wanted: tuple[int, ...], path: str, resize: bool) -> tuple[int, int] | None:
    """What an image must be brought to, said aloud; None where it is of that size. Raises UsageError."""
    found = header_of(path)
    if (found.height, found.width) == wanted:
        return None
    got = _words((found.height, found.width))
    if not resize:
        raise UsageError(
            f"{path} is {got}, the model's data are {_words(wanted)}; give one of that size{_or_resize(wanted)}"
        )
    say(f"{path} is brought from {got} to {_words(wanted)}")
    return wanted[0], wanted[1]


def header_of(path: str) -> Header:
    """What an image file says of itself. Raises UsageError."""
    from scorefield.data.images import ImageError, read_header, strict_pillow

    try:
        with strict_pillow(), Path(path).open("rb") as file:
            return read_header(file)
    except ImageError as error:
        raise UsageError(f"{path}: {error}; give an image (.png, .jpg, …) or a .npy file") from error


def _pixels(path: str, kind: Kind, size: tuple[int, int] | None = None) -> tuple[np.ndarray, Header]:
    """(C, H, W), an image in colour staying so whatever is wanted."""
    from scorefield.data.images import ImageError, decode, strict_pillow

    header = header_of(path)
    if kind == "grey16" and header.kind != "grey16":
        raise UsageError(f"{path} is not a grey image of 16 bits, which the model's data are; give such a one, or .npy")
    try:
        with strict_pillow(), Path(path).open("rb") as file:
            return decode(file, "colour" if header.kind == "colour" else kind, size), header
    except ImageError as error:
        raise UsageError(f"{path}: {error}; write it again") from error


def _grey(path: str) -> np.ndarray:
    """A mask's pixels (H, W)."""
    pixels, header = _pixels(path, "grey")
    return (_grey_of(pixels, path) if header.kind == "colour" else pixels)[0]


def _grey_of(pixels: np.ndarray, path: str) -> np.ndarray:
    """(1, H, W) from three equal channels."""
    if (pixels != pixels[:1]).any():
        raise UsageError(f"{path} is in colour, and grey is wanted; convert it to grey first")
    return pixels[:1]


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _checked(model: Model, array: np.ndarray, source: str) -> np.ndarray:
    """An example of the model's shape, kind and range, in its dtype. Raises UsageError."""
    representation = model.config.representation
    if array.shape != _own_shape(model):
        raise UsageError(_of_another_shape(model, source, array.shape))
    if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        raise UsageError(f"{source} holds values that are no finite numbers ({array.dtype}); give numbers")
    if representation.levels is None:
        return array.astype(representation.dtype)
    if (array != np.rint(array)).any():
        raise UsageError(f"{source} holds fractions, and the model is of integers; round them in the data's own units")
    low, high = representation.low, representation.low + representation.levels - 1
    if array.min() < low or array.max() > high:
        raise UsageError(
            f"{source} holds values from {array.min():g} to {array.max():g}, the model's data go from {low} to {high}; bring it to that range, as .npy where it is no 8-bit image"
        )
    return array.astype(representation.dtype)


def _require_one_value_a_pixel(values: np.ndarray, size: tuple[int, ...], path: str) -> None:
    """Refuse a mask with channels. Raises UsageError."""
    for axis, pick in ((-1, "[..., 0]"), (0, "[0]")):
        if values.ndim == len(size) + 1 and np.delete(values.shape, axis).tolist() == list(size):
            raise UsageError(
                f"mask {path} is {_words(values.shape)}, of {values.shape[axis]} channels, and a mask has one value a pixel, {_words(size)}; give mask{pick}"
            )


def _as_white(values: np.ndarray, path: str, threshold: float | None) -> np.ndarray:
    """Where a mask is white: from the threshold on, or the higher of two values. Raises UsageError."""
    if values.dtype.kind not in "iufb" or not np.isfinite(values).all():
        raise UsageError(f"mask {path} holds values that are no finite numbers ({values.dtype}); give two numbers")
    if threshold is not None:
        return np.asarray(values >= threshold)
    found = np.unique(values)
    if len(found) > 2:
        raise UsageError(
            f"mask {path} has {len(found)} values, from {found[0]:g} to {found[-1]:g}, where two are wanted: white for what may change; give such a one, or say from where on it is white with --threshold {(float(found[0]) + float(found[-1])) / 2:g}"
        )
    return np.asarray(values == found[-1]) if len(found) == 2 else np.asarray(values != 0)


def _own_shape(model: Model) -> tuple[int, ...]:
    representation = model.config.representation
    return representation.own_layout(np.empty((0, *representation.shape))).shape[1:]


def _of_another_shape(model: Model, source: str, shape: tuple[int, ...]) -> str:
    return f"{source} is of shape {shape}, the model's data are of shape {_own_shape(model)}; give such an example"


def _words(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def _or_resize(size: tuple[int, ...]) -> str:
    return ", or --resize" if len(size) == 2 else ""
