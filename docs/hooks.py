"""Pages that are made from the code when the site is built, so that they cannot be out of date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("train", "sample", "edit", "interpolate", "invert", "data", "evaluate", "report", "likelihood", "rate-distortion")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the equation table and the command reference."""
    files.append(File.generated(config, "equations.md", content=_printed_by("tools/equations.py")))
    files.append(File.generated(config, "commands.md", content=_commands()))
    return files


def _printed_by(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "84", "NO_COLOR": "1", "PYTHONPATH": str(ROOT), "TERM": "dumb"},
    )
    if result.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {result.stderr}")
    return result.stdout


def _commands() -> str:
    """What each command says of itself."""
    pages = [f"## scorefield {name}\n\n```text\n{_help(name)}\n```\n" for name in COMMANDS]
    return "\n".join([COMMANDS_HEAD, *pages])


def _help(command: str) -> str:
    return _printed_by("-m", "scorefield", command, "--help").rstrip()


COMMANDS_HEAD = """# Commands

This page is what `scorefield COMMAND --help` prints. A run or model is always the first argument; results go to `--out`;
`--json` prints one JSON object as the last line of standard output; progress goes to standard error and falls silent when
that is no terminal.

| exit code | means |
|---|---|
| 0 | done |
| 2 | wrong use or configuration |
| 3 | no intact checkpoint or model |
| 4 | storage: full, read-only, or an input/output error |
| 5 | the run is in use by another process |
| 6 | diverged: too many steps whose loss or gradient was not finite |
| 7 | out of memory |
| 8 | refused file: a damaged or hostile model |
| 130, 143 | interrupted (Ctrl-C, SIGTERM) after saving |
"""
