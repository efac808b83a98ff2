"""Small runs and inputs for the tests of the command line."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from scorefield import cli

MLP = {"network": "mlp", "network.width": 8, "network.depth": 1, "network.embedding": 8}
UNET = {
    "network": "unet",
    "network.widths": "[8,8]",
    "network.depths": "[1,1]",
    "network.fold": 1,
    "network.head_width": 8,
    "network.embedding": 8,
}
SHORT = {"batch": 8, "steps": 2, "previews": 0, "log_every": 1, "calibrate": "false"}


@dataclass(frozen=True)
class Answer:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams, with the frames and line breaks of boxes taken out."""
        return " ".join((self.out + self.err).replace("│", " ").split())


def call(*words: object) -> Answer:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.run([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def process(*words: object, **options: object) -> Answer:
    """Run the command line as a process of its own."""
    return python("-m", "scorefield", *words, **options)


def python(*words: object, **options: object) -> Answer:
    """Run Python in a process of its own."""
    done = subprocess.run(  # type: ignore[call-overload]
        [sys.executable, *map(str, words)], check=False, capture_output=True, text=True, timeout=100, **options
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def settings(*tables: Mapping[str, object]) -> list[str]:
    """`--set` options."""
    return [word for table in tables for name, value in table.items() for word in ("--set", f"{name}={value}")]


def trained(out: Path, data: object, *tables: Mapping[str, object], more: Sequence[object] = ()) -> Path:
    """A run that has been trained for two steps."""
    answer = call("train", data, "--out", out, "--threads", 1, "--device", "cpu", *settings(*tables, SHORT), *more)
    assert answer.code == 0, answer.text
    return out


def digest(root: Path) -> str:
    """A hash of every name, link and byte below a folder; locks, which only say who was here, left out."""
    lines = []
    for path in sorted(root.rglob("*")):
        content = ""
        if path.is_file() and path.name != ".scorefield.lock" and os.access(path, os.R_OK):
            content = sha256(path.read_bytes()).hexdigest()
        lines.append(f"{path.relative_to(root)} {content}")
    return sha256("\n".join(lines).encode()).hexdigest()


def pictures(count: int = 12, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Grey images of 8×8 pixels and their classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    images = generator.integers(0, 256, size=(count, 8, 8), dtype=np.uint8)
    return images, labels
