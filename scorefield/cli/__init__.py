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
from typing import Annotated, Any

from scorefield.cli.common import Command, say
from scorefield.errors import OutOfMemoryError, ScorefieldError, StorageError


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
    raise error


def parse(arguments: list[str]) -> Command:
    """The command that the arguments describe; help and mistakes end the program here, with 0 and 2."""
    import tyro

    from scorefield.cli.data import DataCommand
    from scorefield.cli.evaluate import EvaluateCommand
    from scorefield.cli.report import ReportCommand
    from scorefield.cli.sample import SampleCommand
    from scorefield.cli.train import TrainCommand

    commands: Any = (
        Annotated[TrainCommand, tyro.conf.subcommand("train")]
        | Annotated[SampleCommand, tyro.conf.subcommand("sample")]
        | Annotated[DataCommand, tyro.conf.subcommand("data")]
        | Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
        | Annotated[ReportCommand, tyro.conf.subcommand("report")]
    )
    if arguments == ["--version"]:
        from scorefield import __version__

        print(f"scorefield {__version__}")
        raise SystemExit(0)
    return tyro.cli(
        commands,
        prog="scorefield",
        args=arguments or ["--help"],
        description="Score-based generative models on your own data: train, sample, evaluate.",
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.CascadeSubcommandArgs),
    )
