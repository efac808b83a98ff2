"""`scorefield codec-profile`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from scorefield.cli.common import Command, label_dropout, load_model, print_json, reading_of, say, set_threads
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.coding.profile import CodecProfile
    from scorefield.model import Model


@dataclass(frozen=True)
class CodecProfileCommand(Command):
    """Make what the codec needs beside the model: its steps, and the network of its last stage, from training data.

    It is kept in the model's folder (codec-NAME.safetensors). Files that were compressed with a profile can be read with it
    alone: keep it as long as them, with the model.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    data: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")] = None
    """Training data; those of the run without it."""

    profile: str = "small"
    """small (fewest bytes), progressive (a smooth way from coarse to exact) or archive (fewest bytes for thousands, slower)."""

    examples: int | None = None
    """How many examples to fit the last stage to."""

    steps: int | None = None
    """Steps of fitting the last stage."""

    group: int | None = None
    """How many examples a file will mostly hold."""

    seed: int = 0
    """Of what is random."""

    replace: bool = False
    """Make it anew where there is one: files of the old one can then no longer be read."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Make, keep, say."""
        set_threads(self.threads)
        from scorefield.model_codec import profile_file, read_codec_profile, save_codec_profile

        model = load_model(self.model, self.device, calibrated=False)
        file = profile_file(self.model, self.profile)
        if not self.replace and os.path.lexists(file):
            found = read_codec_profile(self.model, self.profile, model.tensors())
            if found is not None:
                raise UsageError(
                    f"{file} is there already, and files may have been compressed with it; --replace makes another"
                )
        profile = made(model, self.model, self.profile, self.data, self._effort(), self.seed)
        save_codec_profile(self.model, profile)
        say(f"the profile {profile.id.hex()} is in {file}")
        if self.json:
            print_json(described(profile) | {"file": str(file)})
        return 0

    def _effort(self) -> dict[str, int]:
        given = {"examples": self.examples, "steps": self.steps, "group": self.group}
        chosen = {name: value for name, value in given.items() if value is not None}
        for name, value in chosen.items():
            if not 1 <= value <= 10_000_000:
                raise UsageError(f"--{name} must be between 1 and 10,000,000, got {value}")
        return chosen


def made(model: Model, run: str, name: str, data: str | None, effort: dict[str, int], seed: int = 0) -> CodecProfile:
    """A new profile. Raises UsageError where the run does not say what it was trained on, or that is gone."""
    from dataclasses import replace

    from scorefield.model_codec import Effort, make_codec_profile, require_levels

    require_levels(model)
    if model.is_conditional and label_dropout(run) == 0.0:
        raise UsageError(
            "the codec knows no classes and no conditions, and this model never saw data without one (label_dropout=0); train it with --set label_dropout=0.1, or with --set data.labels=false and no condition"
        )
    source = data or _training_data(run)
    say(f"making the codec's profile '{name}' from {source}")
    wanted = replace(Effort(), **effort)
    return make_codec_profile(model, source, name=name, effort=wanted, seed=seed, progress=say, **reading_of(run))


def _training_data(run: str) -> str:
    from scorefield.data.sources import NAMES
    from scorefield.storage import read_json

    file = os.path.join(run, "run.json")
    named = read_json(file).get("data", {}).get("name") if os.path.isfile(file) else None
    if isinstance(named, str) and (named in NAMES or os.path.exists(named)):
        return named
    known = f"the run's ('{named}') are not there" if named else "this folder does not say which they were"
    raise UsageError(
        f"the codec's profile is made from training data, and {known}; name them: scorefield codec-profile {run} DATA"
    )


def described(profile: CodecProfile) -> dict[str, object]:
    """A profile as JSON says it."""
    last = profile.schedules[0]
    return {
        "profile": profile.name,
        "id": profile.id.hex(),
        "steps": [len(schedule.steps) for schedule in profile.schedules],
        "memory": [schedule.memory for schedule in profile.schedules],
        "ratio": last.nodes[-1].ratio,
        "expected_bits": sum(profile.expected_bits[0]),
    }
