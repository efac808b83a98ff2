"""Checkpoints: everything that training needs to go on, as if it had never stopped.

A checkpoint is a folder `checkpoints/step-N/` with `state.safetensors` (tensors), `state.json` (everything else) and
`manifest.json`, which holds the size and SHA-256 of both, the step, and its own SHA-256; it has one spelling only, so
that no byte of it can change unseen. It appears under its name when it is whole (`storage.write_folder`). The newest
is the highest N that verifies: clocks and pointers are not asked. A damaged one is named and passed over, never
deleted to make room, and an old one goes only after a new one was read back.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorefield.errors import DivergedError, NoCheckpointError, RefusedFileError, StorageError, UsageError
from scorefield.model_folder import tensors_from_bytes, tensors_to_bytes
from scorefield.shapes import Tensor
from scorefield.storage import (
    json_bytes,
    parse_json,
    read_bytes,
    refused,
    remove,
    remove_leftovers,
    sha256,
    storage_errors,
    write_folder,
)
from scorefield.training.run_folder import RunFolder

_TENSORS, _STATE, _MANIFEST = "state.safetensors", "state.json", "manifest.json"
_FORMAT = 1
_MAX_TENSORS = 200_000  # weights, two moments and some averages of the largest model that is allowed
_MAX_DEPTH = 40
_NAME = re.compile(r"step-(0|[1-9][0-9]{0,17})", re.ASCII)

logger = logging.getLogger("scorefield")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps: tensors on the CPU, the rest as JSON has it."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run: RunFolder, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write `checkpoints/step-N`, read it back, and only then delete all but the newest `keep` good ones.

    Args:
        run: the run, created and locked.
        step: how many steps were made, N ≥ 0.
        tensors: any dtypes and shapes; those of floats must be finite.
        state: what JSON can say; tuples come back as lists.
        keep: how many good checkpoints stay, at least two.

    Raises:
        UsageError: `keep` or `step` is too small, or the state cannot be stored.
        DivergedError: a number is infinite or not one.
        StorageError: the disk refused, or gave back other bytes; earlier checkpoints are intact.
    """
    if keep < 2 or step < 0:
        raise UsageError(f"a checkpoint needs step ≥ 0 and keep ≥ 2, got step={step} and keep={keep}")
    files = {_TENSORS: tensors_to_bytes(tensors, _MAX_TENSORS), _STATE: _state_bytes(state)}
    files[_MANIFEST] = _manifest_bytes(step, files)
    folder = run.step(step)
    if not _holds(folder, files):
        write_folder(folder, files)
        if not _holds(folder, files):
            raise StorageError(f"{os.fspath(folder)!r} reads back other than it was written; check the disk")
    _prune(run, step, keep)
    return folder


def latest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The newest checkpoint that verifies, or None where none was ever saved. Damaged ones are named in a warning.

    Raises NoCheckpointError where there are checkpoints but none is intact: training must not begin again unasked.
    """
    damage = []
    for _, folder in _newest_first(run):
        try:
            return read_checkpoint(folder)
        except (RefusedFileError, StorageError) as error:
            if not os.path.lexists(folder):
                # A writer has just deleted it as too old, so a newer one is there.
                return latest_checkpoint(run)
            damage.append(str(error))
            logger.warning("%s is damaged and passed over: %s", folder.name, error)
    if damage:
        text = f"none of the {len(damage)} checkpoints in {os.fspath(run.checkpoints)!r} is intact"
        fix = "restore one from a copy, or train into a new folder; nothing was deleted"
        raise NoCheckpointError(f"{text} (the newest: {damage[0]}); {fix}")
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in one folder `step-N`. Raises RefusedFileError where a byte is another, StorageError."""
    files = _verified_files(folder)
    tensors = tensors_from_bytes(files[_TENSORS], folder / _TENSORS, _MAX_TENSORS)
    state = parse_json(files[_STATE], folder / _STATE, _MAX_DEPTH)
    return Checkpoint(folder, _step_of(folder), tensors, state)


def clean_leftovers(run: RunFolder) -> None:
    """Delete what killed writers left unfinished in a run. Call it with the lock held. Raises StorageError."""
    remove_leftovers(run.path)


def checkpoint_bytes(tensors: Mapping[str, Tensor]) -> int:
    """About how many bytes a checkpoint of `tensors` takes: what to ask of `storage.require_space` beforehand."""
    return sum(tensor.nbytes + 256 for tensor in tensors.values()) + (1 << 20)


def _prune(run: RunFolder, saved: int, keep: int) -> None:
    """Delete the checkpoints older than the `keep` newest good ones; `saved` was just read back, and stays."""
    good = 0
    for step, folder in _newest_first(run):
        if step == saved:
            good += 1
        elif good >= keep:
            _remove_or_warn(folder)
        else:
            good += _is_intact(folder)


def _remove_or_warn(folder: Path) -> None:
    try:
        remove(folder)
    except StorageError as error:
        # The new checkpoint is safe; an old one too many is no reason to stop.
        logger.warning("an old checkpoint stays: %s", error)


def _newest_first(run: RunFolder) -> list[tuple[int, Path]]:
    with storage_errors("list", run.checkpoints):
        entries = list(run.checkpoints.iterdir()) if os.path.lexists(run.checkpoints) else []
    matches = (_NAME.fullmatch(entry.name) for entry in entries)
    steps = sorted((int(match[1]) for match in matches if match), reverse=True)
    return [(step, run.step(step)) for step in steps]


def _step_of(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    if match is None:
        raise refused(folder, "a folder named step-N", folder.name)
    return int(match[1])


# The manifest


def _state_bytes(state: Mapping[str, Any]) -> bytes:
    try:
        data = json_bytes(state)
        parse_json(data, _STATE, _MAX_DEPTH)
    except ValueError as error:
        raise DivergedError(f"the state holds a number that is not finite and was not saved: {error}") from error
    except (TypeError, RefusedFileError) as error:
        raise UsageError(f"the state cannot be stored in {_STATE}: {error}") from error
    return data


def _manifest_bytes(step: int, files: Mapping[str, bytes]) -> bytes:
    entries = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
    return _signed({"format": _FORMAT, "step": step, "files": entries})


def _signed(content: Mapping[str, Any]) -> bytes:
    return json_bytes({**content, "sha256": sha256(json_bytes(content))})


def _read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 of each file, from a manifest that is what it was when it was written."""
    path = folder / _MANIFEST
    data = read_bytes(path, 1 << 16)
    content = parse_json(data, path)
    digest = content.pop("sha256", None)
    if data != _signed(content):
        raise refused(path, f"sha256 {str(digest)[:80]}", f"sha256 {sha256(json_bytes(content))}")
    if (content.get("format"), content.get("step")) != (_FORMAT, _step_of(folder)):
        found = f"format {content.get('format')} of step {content.get('step')}"
        raise refused(path, f"format {_FORMAT} of step {_step_of(folder)}", found)
    return {name: _entry(path, content, name) for name in (_TENSORS, _STATE)}


def _entry(path: Path, content: Mapping[str, Any], name: str) -> tuple[int, str]:
    try:
        entry = content["files"][name]
        size, digest = entry["bytes"], entry["sha256"]
    except (KeyError, TypeError):
        size = digest = None
    if not (type(size) is int and isinstance(digest, str)):
        raise refused(path, f"the size and sha256 of {name}", "something else")
    return size, digest


def _verified_files(folder: Path) -> dict[str, bytes]:
    """The content of the two files of a checkpoint, each as its manifest says, and no other file beside them."""
    if folder.is_symlink() or not folder.is_dir():
        raise refused(folder, "a folder", "a link" if folder.is_symlink() else "a file")
    entries = _read_manifest(folder)
    with storage_errors("list", folder):
        names = {path.name for path in folder.iterdir()}
    for name in names - {_MANIFEST, *entries}:
        raise refused(folder / name, "nothing", "a file that the manifest does not name")
    return {name: _verified(folder / name, size, digest) for name, (size, digest) in entries.items()}


def _verified(path: Path, size: int, digest: str) -> bytes:
    data = read_bytes(path, size)
    if len(data) != size:
        raise refused(path, f"{size:,} bytes", f"{len(data):,} bytes")
    if sha256(data) != digest:
        raise refused(path, f"sha256 {digest}", f"sha256 {sha256(data)}")
    return data


def _is_intact(folder: Path) -> bool:
    try:
        _verified_files(folder)
    except (RefusedFileError, StorageError):
        return False
    return True


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether the folder is intact and its manifest is the one in `files`; then so are the files."""
    if not _is_intact(folder):
        return False
    return read_bytes(folder / _MANIFEST, 1 << 16) == files[_MANIFEST]
