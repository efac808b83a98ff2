"""A run's model as it was at a checkpoint that is kept: what an earlier, worse model of the same data can be asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from scorefield.errors import UsageError
from scorefield.model import Model
from scorefield.training.checkpoints import read_checkpoint


def checkpoint_model(model: Model, run: str | os.PathLike[str], name: str) -> Model:
    """A run's model as it was at one of the checkpoints that are kept, its averaged weights.

    Args:
        model: the run's.
        run: its folder.
        name: of the checkpoint, `step-N`.

    Raises:
        UsageError: no such checkpoint, with those there are.
        RefusedFileError: it is damaged.
    """
    folder = Path(run, "checkpoints")
    there = sorted(each.name for each in folder.glob("step-*")) if folder.is_dir() else []
    if name not in there:
        raise UsageError(f"there is no checkpoint '{name}' in {folder}; there are: {', '.join(there) or 'none'}")
    weights = {
        key.removeprefix("average."): tensor
        for key, tensor in read_checkpoint(folder / name).tensors.items()
        if key.startswith("average.")
    }
    with torch.random.fork_rng(devices=[]):
        network = model.config.build_network()
    network.load_state_dict(weights)
    network.to(model.device)
    return replace(model, network=network.eval(), calibration=None)
