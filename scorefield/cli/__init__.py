"""The command line: one file a command, no mathematics in it.

Results go to `--out`, progress to standard error (silent where that is no terminal), and with `--json` the last line of
standard output is one JSON object. An error is one message and an exit code, never a traceback:
0 done · 2 wrong use · 3 no intact checkpoint · 4 storage · 5 run in use · 6 diverged · 7 memory · 8 refused file · 130/143 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from scorefield import __version__
from scorefield.cli.common import Command, say
from scorefield.errors import OutOfMemoryError, ScorefieldError, StorageError, unknown_name

COMMANDS = {
    "train": "Fit a model to data.",
    "sample": "Draw samples from a trained model into a grid (.png), an array (.npz), a film (.gif) or a folder of images.",
    "restore": "Restore pictures or data from what was measured of them: masked, shrunk, blurred, grey, projected or noisy.",
    "inpaint": "Fill what a mask hides of a picture in several ways; the rest comes back bit by bit.",
    "colorize": "Colour a grey picture in several ways, by a model of colour pictures.",
    "upscale": "Enlarge a small picture to the model's size in several ways; shrunk again, each is that picture but for what is clipped at black and white.",
    "edit": "Edit a drawing, a composite or a picture by SDEdit: noise it until strokes are lost and layout is not, and draw from there.",
    "interpolate": "Draw what lies between two pictures or other data: by one noise for all, or along the flow's own latents.",
    "invert": "Find the latents of data, their places in pure noise by the probability flow; with --decode the data of latents.",
    "calibrate": "Make the default sampler accurate for this model: plans for 4 to 50 evaluations, from the model's own trajectories.",
    "tune": "Learn the time grid and the step coefficients for small budgets, longer than `calibrate` does.",
    "train-classifier": "Fit a classifier of noisy samples to a model's data, for `--classifier-guidance`.",
    "codec-profile": "Make what the codec needs beside the model: its steps, and the network of its last stage, from training data.",
    "compress": "Compress pictures or data by a model: exact in the end, and a coarser picture at every prefix of the file.",
    "decompress": "Get pictures or data back from an archive; from the front of one, as good as it allows.",
    "data": "Say what is in the data: counts, shapes, range, duplicates, what would be skipped and why, σ_data and σ_max.",
    "likelihood": "Measure the likelihood of data in bits per dimension, with error bars: by the variational bound or by the probability flow.",
    "rate-distortion": "Measure rate and distortion of progressive coding along the reverse process: a table, plots and pictures.",
    "evaluate": "Measure how far samples are from data: distances with error bars, coverage, memorisation.",
    "report": "Write the report of a run: one page that says what was trained, how, and how good it is.",
}
"""What each command does: the first sentence of its class, which lies in the module of its name (`rate-distortion`: `RateDistortionCommand` in `rate_distortion`)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run a command; return its exit code."""
    logging.basicConfig(format="scorefield: %(message)s", level=logging.WARNING, stream=sys.stderr)
    warnings.showwarning = lambda message, *_args, **_options: say(f"warning: {message}")
    try:
        return parse(arguments).run()
    except ScorefieldError as error:
        say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (MemoryError, RuntimeError, OSError) as error:
        return _expected(error)


def _expected(error: Exception) -> int:
    """The exit code of an error that PyTorch or the system raised for want of memory or storage; others are bugs."""
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        say(
            f"error: memory ran out ({text.splitlines()[0] if text else 'no more to be had'}); use a smaller --batch, more micro-batches (--set accumulate=2) or a smaller network (--set network.widths=[64,96])"
        )
        return OutOfMemoryError.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        say(f"error: {error.strerror}: {error.filename or 'no file named'}")
        return StorageError.exit_code
    if int(os.environ.get("RANK", "0")) > 0 and "onnection" in text:
        say("the leading process has stopped; its message says why")
        return 1
    raise error


def parse(arguments: list[str]) -> Command:
    """The command that the arguments describe; help and mistakes end the program here, with 0 and 2.

    Only the chosen command's module is imported, and nothing at all for the help: a command line must answer at once.

    Raises:
        UsageError: no such command.
    """
    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        _leave_with(_help())
    if name == "--version":
        _leave_with(f"scorefield {__version__}")
    if name not in COMMANDS:
        raise unknown_name("option" if name.startswith("-") else "command", name, [*COMMANDS, "--help", "--version"])
    import tyro

    module, words = name.replace("-", "_"), name.title().replace("-", "")
    command: type[Command] = getattr(import_module(f"scorefield.cli.{module}"), f"{words}Command")
    return tyro.cli(command, prog=f"scorefield {name}", args=rest, config=(tyro.conf.FlagCreatePairsOff,))


def _help() -> str:
    widest = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{widest}}{summary}" for name, summary in COMMANDS.items())
    return f"""usage: scorefield COMMAND …

Score-based generative models on your own data.

commands:
{rows}

options:
  --help    this text; after a command, that command's options
  --version the version

A first run:  scorefield train digits --out runs/digits --minutes 5
              scorefield sample runs/digits --out grid.png"""


def _leave_with(text: str) -> NoReturn:
    print(text, flush=True)
    raise SystemExit(0)
