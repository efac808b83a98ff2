"""`scorefield train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from scorefield.cli.common import Command, print_json, say, set_threads
from scorefield.training.configuration import RunConfig, configure, parse_settings


@dataclass(frozen=True)
class TrainCommand(Command):
    """Fit a model to data. The same command resumes a run that was stopped, in the same bits.

    Under `torchrun --nproc-per-node N -m scorefield train …` N processes share each batch.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A built-in name (mnist, digits, moons, mixture-2d, …), a folder of images, a .npy, .npz, .parquet or IDX file,
    shards (shards-{000..127}.tar) or hf:NAME[:split]."""

    out: str
    """The run's folder."""

    preset: str | None = None
    """A paper's settings: ddpm, edm; without it what measures best."""

    steps: int | None = None
    """How many steps to train; the same number of steps gives the same bits."""

    minutes: float | None = None
    """How long to train instead, over all resumptions."""

    save_every: int | None = None
    """Steps between checkpoints."""

    batch: int | None = None
    """Samples a step, over all processes."""

    seed: int | None = None
    """Seed of everything random."""

    condition: str | None = None
    """Numbers to condition on: a column of a table or a key of a .npz file (several with commas), or FILE.npy, one row an example."""

    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE …"), tyro.conf.UseAppendAction
    ] = ()
    """Any setting by its dotted name, such as optimiser.learning_rate=1e-3, data.size=64, data.flip=true or path=vp; may be repeated."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Check the configuration, then train."""
        config = self.configuration()
        set_threads(self.threads)
        from scorefield.cli.progress import TrainingProgress
        from scorefield.fitting import run_training

        with TrainingProgress(config) as progress:
            end = run_training(config, self.data, self.out, device=self.device, watch=progress)
        if not progress.leads:
            return 0
        done = f"step {end.step}: the model is in {self.out}, the report in {self.out}/report.html"
        say(f"stopped and saved at {done}; the same command goes on" if end.interrupted_by else f"done at {done}")
        if self.json:
            print_json({"run": self.out, "step": end.step, "complete": end.interrupted_by is None, **progress.last()})
        return 128 + end.interrupted_by if end.interrupted_by else 0

    def configuration(self) -> RunConfig:
        """The preset with `--set` and the options of their own; all checked before torch is imported."""
        settings: dict[str, Any] = parse_settings(self.settings)
        own = {
            "steps": self.steps,
            "minutes": self.minutes,
            "save_every": self.save_every,
            "batch": self.batch,
            "seed": self.seed,
            "data.condition": self.condition,
        }
        return configure(self.preset, settings | {name: value for name, value in own.items() if value is not None})
