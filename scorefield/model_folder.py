"""A model on disk: a folder with `config.json`, which says everything, and `model.safetensors`, the weights.

The two must fit together whenever a process is killed, and a damaged byte in either must be found before it is used.
So `model.safetensors` carries, in the metadata that its format provides for, the SHA-256 of the `config.json` it
belongs to (`config_sha256`) and its own (`sha256`, computed with 64 zeros in its place): one atomic rename then
brings new weights, and nothing else has to change with them. `config.json` is written once, before the first weights.
Where it does change later (a run goes on for longer than was planned), the weights are first made to accept both the
old one and the new one, then `config.json` is replaced, and the next weights accept the new one only.

Readers take no lock. They check sizes and the header before they read a tensor, and the hashes before they use one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from scorefield.errors import DivergedError, NoCheckpointError, RefusedFileError, UsageError
from scorefield.shapes import Tensor
from scorefield.storage import (
    TEMPORARY,
    json_bytes,
    open_regular,
    parse_json,
    read_bytes,
    refused,
    sha256,
    write_bytes,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
LOCK = ".scorefield.lock"

CONFIG_LIMIT = 1 << 20
"""The largest `config.json`, in bytes."""

MODEL_LIMIT = 16 << 30
"""The largest `model.safetensors`, in bytes, that is read unless the caller allows more."""

HEADER_LIMIT = 4 << 20
"""The largest safetensors header, in bytes, that is parsed."""

_BLANK = "0" * 64


# The folder


def save_model(
    folder: str | os.PathLike[str], config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, weights: str = WEIGHTS
) -> None:
    """Write a model into a folder that exists, so that a reader finds the old model or the new one at any moment.

    Args:
        folder: where `config.json` and `model.safetensors` go.
        config: what JSON can say, nested at most 20 deep, at most 1 MB.
        tensors: the weights by name; at most 10,000, of rank ≤ 8; dtypes and shapes are kept.
        weights: the name of their file.

    Raises:
        UsageError: the configuration cannot be stored.
        DivergedError: a weight is infinite or not a number.
        StorageError: the disk refused; what was there is intact.
    """
    folder = Path(folder)
    new, data = _config_bytes(config), tensors_to_bytes(tensors)
    old = _stored_config(folder)
    if old is None:
        write_bytes(folder / CONFIG, new)
    write_bytes(folder / weights, _sealed(data, {sha256(new), sha256(old or new)}))
    if old not in (None, new):
        write_bytes(folder / CONFIG, new)


def save_config(folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
    """Write `config.json` alone: before the first weights, or to change it; weights that are there then accept it.

    Raises UsageError, StorageError, and RefusedFileError where weights are there but damaged.
    """
    folder = Path(folder)
    new, old = _config_bytes(config), _stored_config(folder)
    if old is not None and old != new and os.path.lexists(folder / WEIGHTS):
        weights = read_bytes(folder / WEIGHTS, MODEL_LIMIT)
        header = safetensors_header(weights, folder / WEIGHTS)
        _require_config(folder, old, header)
        _require_seal(folder / WEIGHTS, weights, header)
        write_bytes(folder / WEIGHTS, _sealed(weights, {sha256(new), sha256(old)}))
    if old != new:
        write_bytes(folder / CONFIG, new)


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a model, or of a run that has no weights yet; weights that are there must know it.

    Raises UsageError, NoCheckpointError, RefusedFileError and StorageError as `read_model` does.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / WEIGHTS) and os.path.lexists(folder / CONFIG):
        return parse_json(read_bytes(folder / CONFIG, CONFIG_LIMIT), folder / CONFIG)
    _require_model(folder)
    with _fix_in_message():
        config = read_bytes(folder / CONFIG, CONFIG_LIMIT)
        with open_regular(folder / WEIGHTS, MODEL_LIMIT) as file:
            _, header = _read_header(file, folder / WEIGHTS)
        _require_config(folder, config, header)
        return parse_json(config, folder / CONFIG)


def read_model(
    folder: str | os.PathLike[str],
    check: Callable[[dict[str, Any], SafetensorsHeader], None] | None = None,
    *,
    limit: int = MODEL_LIMIT,
    weights: str = WEIGHTS,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights of a model folder, on the CPU.

    Args:
        folder: a model folder, or a run folder that has weights.
        check: called with the configuration and the header of the weights before a weight is read: the place to compare
            names, dtypes
            and shapes with what the configuration describes. It refuses by raising RefusedFileError.
        limit: the largest file of weights to read, in bytes.
        weights: its name.

    Raises:
        UsageError: there is no such folder, or it has nothing to do with a model.
        NoCheckpointError: a run that has saved no weights yet.
        RefusedFileError: a file is damaged, missing, a link, too large, or not of this format.
        StorageError: the disk failed.
    """
    folder = Path(folder)
    _require_model(folder, weights)
    with _fix_in_message():
        text = read_bytes(folder / CONFIG, CONFIG_LIMIT)
        with open_regular(folder / weights, limit) as file:
            start, header = _read_header(file, folder / weights)
            _require_config(folder, text, header)
            config = parse_json(text, folder / CONFIG)
            if check is not None:
                check(config, header)
            data = start + file.read()
        _require_seal(folder / weights, data, header)
        return config, tensors_from_bytes(data, folder / weights)


@contextlib.contextmanager
def _fix_in_message() -> Iterator[None]:
    try:
        yield
    except RefusedFileError as error:
        raise RefusedFileError(f"{error}; restore the model's folder from a copy, or save the model again") from error


def _require_model(folder: Path, weights: str = WEIGHTS) -> None:
    """Tell a folder that has no model from one whose model is damaged."""
    hint = "give the folder that `scorefield train` wrote (its --out)"
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise UsageError(f"no model at {os.fspath(folder)!r}: expected a folder, found {found}; {hint}")
    if os.path.lexists(folder / weights):
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith((TEMPORARY, LOCK))}
    if names and not names & {CONFIG, "checkpoints"}:
        raise UsageError(f"{os.fspath(folder)!r} is no model: it holds neither {CONFIG} nor {weights}; {hint}")
    raise NoCheckpointError(f"no model in {os.fspath(folder)!r} yet: {weights} is missing; train on")


def _config_bytes(config: Mapping[str, Any]) -> bytes:
    try:
        data = json_bytes(config)
        parse_json(data, CONFIG)
    except (ValueError, TypeError, RefusedFileError) as error:
        raise UsageError(f"the configuration cannot be stored in {CONFIG}: {error}") from error
    if len(data) > CONFIG_LIMIT:
        raise UsageError(f"the configuration needs {len(data):,} bytes in {CONFIG}; at most {CONFIG_LIMIT:,} fit")
    return data


def _stored_config(folder: Path) -> bytes | None:
    path = folder / CONFIG
    return read_bytes(path, CONFIG_LIMIT) if os.path.lexists(path) else None


# The seal of the weights


def _sealed(data: bytes, configs: Iterable[str]) -> bytes:
    """A safetensors file with the digests of the configurations that it accepts and its own in the metadata."""
    start = _payload_start(data, WEIGHTS, len(data))
    header = json.loads(data[8:start])
    header["__metadata__"] = {"config_sha256": " ".join(sorted(configs)), "format": "pt", "sha256": _BLANK}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    opening = len(text).to_bytes(8, "little") + text
    payload = memoryview(data)[start:]
    mark = f'"sha256":"{_BLANK}"'
    return opening.replace(mark.encode(), mark.replace(_BLANK, sha256(opening, payload)).encode(), 1) + payload


def _require_seal(path: Path, data: bytes, header: SafetensorsHeader) -> None:
    stored = header.metadata.get("sha256", "")
    mark = f'"sha256":"{stored}"'.encode()
    opening = data[: header.payload_start]
    if not re.fullmatch(r"[0-9a-f]{64}", stored) or opening.count(mark) != 1:
        raise refused(path, "the SHA-256 of the file in its metadata", repr(stored[:80]))
    found = sha256(opening.replace(mark, f'"sha256":"{_BLANK}"'.encode()), memoryview(data)[header.payload_start :])
    if found != stored:
        raise refused(path, f"sha256 {stored}", f"sha256 {found}")


def _require_config(folder: Path, config: bytes, header: SafetensorsHeader) -> None:
    accepted = header.metadata.get("config_sha256", "")
    if sha256(config) not in accepted.split():
        expected = f"sha256 {accepted[:129] or 'in the metadata of ' + WEIGHTS}, by which the weights know it"
        raise refused(folder / CONFIG, expected, f"sha256 {sha256(config)}")


def _read_header(file: BinaryIO, path: Path) -> tuple[bytes, SafetensorsHeader]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    start += file.read(_payload_start(start, path, size) - 8)
    return start, safetensors_header(start, path, size=size)


# Tensors as bytes


def tensors_to_bytes(tensors: Mapping[str, Tensor], max_tensors: int = 10_000) -> bytes:
    """The tensors in the safetensors format: the same bytes for the same values, whatever the order, device or strides.

    Raises DivergedError where one is infinite or not a number, UsageError where the names or number cannot be stored.
    """
    import torch
    from safetensors.torch import save

    _require_finite(tensors)
    # Clones: the format takes neither strides nor two tensors that share memory.
    contiguous = torch.contiguous_format
    data = save({name: tensor.detach().cpu().clone(memory_format=contiguous) for name, tensor in tensors.items()})
    try:
        safetensors_header(data, "the tensors", max_tensors=max_tensors)
    except RefusedFileError as error:
        raise UsageError(f"cannot be stored: {error}") from error
    return data


def tensors_from_bytes(data: bytes, name: str | os.PathLike[str], max_tensors: int = 10_000) -> dict[str, Tensor]:
    """The tensors in a safetensors file, on the CPU, each with memory of its own. Raises RefusedFileError."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    safetensors_header(data, name, max_tensors=max_tensors)
    try:
        return load(data)
    except SafetensorError as error:
        raise refused(name, "a safetensors file", str(error)[:200]) from error


def _require_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not _is_finite(tensor):
            raise DivergedError(f"{name!r} is not finite and was not saved; resume from the last checkpoint")


def _is_finite(tensor: Tensor) -> bool:
    # Eight-bit floats have no isfinite of their own.
    wide = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
    return bool(wide.isfinite().all())


# The safetensors header


_ITEM_BYTES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"], 1),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 2),
    **dict.fromkeys(["I32", "U32", "F32"], 4),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 8),
}
_MAX_RANK = 8
_MAX_ITEMS = 1 << 48


@dataclass(frozen=True)
class TensorEntry:
    """What a safetensors header says of one tensor; `begin` and `end` count bytes of the payload."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """A checked safetensors header: the tensors by name, the free text, and where the payload begins in the file."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    payload_start: int


def safetensors_header(
    data: bytes, name: str | os.PathLike[str] = "safetensors", *, size: int | None = None, max_tensors: int = 10_000
) -> SafetensorsHeader:
    """The header of a safetensors file, checked before a byte of a tensor is touched.

    `data` is the file or its beginning, `size` then the whole file's. At most `max_tensors` tensors of rank ≤ 8, of
    known dtypes, that fill the payload one after the other without a gap, overlap or rest; no name twice. Raises
    RefusedFileError.
    """
    size = len(data) if size is None else size
    start = _payload_start(data, name, size)
    content = parse_json(data[8:start], name, max_depth=3)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise refused(name, "metadata of strings", "other values")
    if len(content) > max_tensors:
        raise refused(name, f"at most {max_tensors:,} tensors", f"{len(content):,}")
    tensors = {key: _entry(key, entry, name) for key, entry in content.items()}
    _require_filled(tensors, size - start, name)
    return SafetensorsHeader(tensors, metadata, start)


def _payload_start(data: bytes, name: str | os.PathLike[str], size: int) -> int:
    """Where the payload of a safetensors file of `size` bytes begins, by its first eight. Raises RefusedFileError."""
    start = 8 + int.from_bytes(data[:8], "little")
    if size < 8 or start > size or start > HEADER_LIMIT:
        limit = min(size, HEADER_LIMIT)
        raise refused(name, f"a header within the first {limit:,} bytes", f"a length of {start:,} in {size:,} bytes")
    return start


def _entry(key: str, entry: Any, name: str | os.PathLike[str]) -> TensorEntry:
    if not (isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"} and 0 < len(key) <= 512):
        raise refused(name, "tensors with a name, dtype, shape and data_offsets", f"{key[:80]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2):
        raise refused(name, f"whole, non-negative sizes for {key!r}", "other values")
    if len(shape) > _MAX_RANK or math.prod(max(length, 1) for length in shape) > _MAX_ITEMS:
        raise refused(name, f"rank ≤ {_MAX_RANK} and at most 2⁴⁸ items for {key!r}", f"rank {len(shape)}")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _ITEM_BYTES:
        raise refused(name, f"a dtype of {', '.join(_ITEM_BYTES)} for {key!r}", repr(entry["dtype"])[:80])
    result = TensorEntry(entry["dtype"], tuple(shape), *offsets)
    needed = math.prod(shape) * _ITEM_BYTES[result.dtype]
    if result.end - result.begin != needed:
        raise refused(name, f"{needed:,} bytes for {key!r}", f"offsets {offsets}")
    return result


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _require_filled(tensors: Mapping[str, TensorEntry], payload: int, name: str | os.PathLike[str]) -> None:
    position = 0
    for entry in sorted(tensors.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise refused(name, f"a tensor at byte {position:,} of the payload", f"one at {entry.begin:,}")
        position = entry.end
    if position != payload:
        raise refused(name, f"a payload of {position:,} bytes", f"{payload:,} bytes")
