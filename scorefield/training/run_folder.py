"""The folder of a run: what lies where in it, and who may write to it.

A run folder is a model folder (`config.json`, `model.safetensors`) that is being written: it adds the checkpoints to
resume from, the logs, and what is worth looking at. One process writes, any number read; the lock of the kernel on an
open file tells the writer, so a killed process leaves no stale lock behind, and readers need none, since files change
by renames only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from scorefield.errors import RunInUseError, UsageError
from scorefield.model_folder import CONFIG, LOCK, WEIGHTS
from scorefield.storage import TEMPORARY, storage_errors, sync_folder

_held: set[int] = set()


class RunFolder:
    """The paths of a run, and its lock.

    >>> run = RunFolder("runs/demo")
    >>> run.step(200).as_posix()
    'runs/demo/checkpoints/step-200'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / CONFIG
        self.model = self.path / WEIGHTS
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.jsonl"
        self.timing = self.path / "timing.jsonl"
        self.data_report = self.path / "data.json"
        self.samples = self.path / "samples"
        self.report = self.path / "report.html"
        self.lock_file = self.path / LOCK

    def __repr__(self) -> str:
        return f"RunFolder({os.fspath(self.path)!r})"

    def step(self, step: int) -> Path:
        """Where the checkpoint after `step` steps lies."""
        return self.checkpoints / f"step-{step}"

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.lock_file.is_file() or (self.config.is_file() and self.checkpoints.is_dir())

    def create(self) -> None:
        """Make the folder, or take one that is empty or a run already; nothing in it is changed.

        Raises UsageError where there is something else, StorageError where the folder cannot be made or written to.
        """
        with storage_errors("make the run folder", self.path):
            self._require_free()
            self.path.mkdir(parents=True, exist_ok=True)
            # The lock file first: it is what tells a run that was killed here from somebody's folder.
            os.close(self._open_lock())
            self.checkpoints.mkdir(exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            for folder in (self.path, self.path.parent):
                sync_folder(folder)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go when the process ends, however it ends.

        Raises RunInUseError at once where another holds it, StorageError where the folder cannot be written to.
        """
        with storage_errors("lock", self.lock_file):
            descriptor = self._open_lock()
        try:
            self._take(descriptor)
            _held.add(descriptor)
            yield
        finally:
            _held.discard(descriptor)
            os.close(descriptor)

    def _require_free(self) -> None:
        if not self.path.is_dir():
            if os.path.lexists(self.path):
                raise UsageError(f"{os.fspath(self.path)!r} is a file, not a folder; choose another --out")
            return
        others = sorted(name.name for name in self.path.iterdir() if not name.name.startswith(TEMPORARY))
        if others and not self.exists():
            text = f"{os.fspath(self.path)!r} is no run but holds {others[0]!r}"
            raise UsageError(f"{text}; choose a new folder as --out (nothing was changed)")

    def _open_lock(self) -> int:
        return os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)

    def _try_lock(self, descriptor: int) -> bool:
        with storage_errors("lock", self.lock_file):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _take(self, descriptor: int) -> None:
        if not self._try_lock(descriptor):
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            who = f"process {holder}" if holder.isdigit() else "another process"
            text = f"{os.fspath(self.path)!r} is in use by {who}; wait for it, stop it, or choose another --out"
            raise RunInUseError(text)
        # Only a hint for the message above: a disk too full for five digits must not stop the run here.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _let_go() -> None:
    """Close a child's copies of the locks: a data worker that outlives its parent must not hold the run."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
