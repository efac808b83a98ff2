"""What can go wrong, as types: each error knows the exit code its command ends with.

A message says what was asked for, what was found, and how to mend it; it is all a user sees.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ScorefieldError(Exception):
    """The base of every error a user can cause or meet; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(ScorefieldError, ValueError):
    """Wrong use or configuration: an unknown name, an impossible value, data that cannot be read."""

    exit_code = 2


class NoCheckpointError(ScorefieldError):
    """No intact checkpoint or model was found where one is needed."""

    exit_code = 3


class StorageError(ScorefieldError):
    """Storage failed: full, read-only, over quota, or an input/output error."""

    exit_code = 4


class RunInUseError(ScorefieldError):
    """Another process holds the run folder."""

    exit_code = 5


class DivergedError(ScorefieldError):
    """Training met too many steps whose loss or gradient was not finite, or what was drawn is not."""

    exit_code = 6


class OutOfMemoryError(ScorefieldError):
    """Memory ran out; the message names the settings that need less of it."""

    exit_code = 7


class RefusedFileError(ScorefieldError):
    """A model, checkpoint or stream is damaged, hostile or of an unknown format."""

    exit_code = 8


class MissingExtraError(UsageError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}'; install it with: pip install 'scorefield[{extra}]'")


def unknown_name(kind: str, got: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not on a list, with the nearest one that is."""
    known = sorted(known)
    nearest = difflib.get_close_matches(got, known, n=1, cutoff=0.5)
    hint = f"did you mean '{nearest[0]}'? " if nearest else ""
    return UsageError(f"unknown {kind} '{got}'; {hint}known: {', '.join(known)}")
