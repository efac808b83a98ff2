"""The training batches, each a pure function of (seed, step): whoever asks, and after whatever interruption, gets the same.

The order is a fresh permutation for every pass over the data. A step's random numbers (times, noise, dropped labels,
flips) come from one generator seeded by (seed, step) for the whole batch; a process or a micro-batch takes its slice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from scorefield.data import Dataset, Representation
from scorefield.objectives import Draws
from scorefield.training.configuration import RunConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """What a training step needs.

    Attributes:
        x_0: (b, …) data in model space.
        condition: (b,) class numbers, the number of classes where the label is dropped; or (b, k) standardised numbers, NaN where
            they are dropped; None without.
        draws: the random numbers of the objective.
    """

    x_0: Tensor
    condition: Tensor | None
    draws: Draws

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.x_0[part], None if self.condition is None else self.condition[part], self.draws[part])

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        condition = None if self.condition is None else self.condition.to(device, non_blocking=True)
        return Batch(self.x_0.to(device, non_blocking=True), condition, self.draws.to(device))


class Batches:
    """The whole batches of a run, by step; drawn on the CPU, so that every device sees the same numbers.

    Args:
        dataset: the data.
        representation: their way to model space.
        config: of the run.
        classes: how many the model has; 0 where it has none.
        conditions: (n, k) standardised numbers of all examples, in place of classes; None where there are none.
    """

    def __init__(
        self,
        dataset: Dataset,
        representation: Representation,
        config: RunConfig,
        classes: int,
        conditions: np.ndarray | None = None,
    ) -> None:
        self._dataset, self._representation, self._config = dataset, representation, config
        self._classes, self._conditions = classes, conditions
        self._order = lru_cache(maxsize=2)(self._permutation)

    def _permutation(self, epoch: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(mixed(self._config.seed, "order", epoch))
        return torch.randperm(len(self._dataset), generator=generator).numpy()

    def indices(self, step: int) -> np.ndarray:
        """Which examples step n ≥ 1 sees."""
        batch = self._config.batch or 0
        places = np.arange((step - 1) * batch, step * batch)
        epochs = places // len(self._dataset)
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = self._order(int(epoch))[places[here] % len(self._dataset)]
        return chosen

    def batch(self, step: int) -> Batch:
        """The whole batch of step n ≥ 1."""
        indices = self.indices(step)
        x_0 = self._representation.to_model(self._dataset.batch(indices))
        generator = torch.Generator().manual_seed(mixed(self._config.seed, "noise", step))
        draws = self._config.objective.draw(x_0, generator)
        dropped, flipped = torch.rand(2, len(x_0), generator=generator)
        if self._config.data.flip:
            x_0 = torch.where((flipped < 0.5).reshape(-1, *(1,) * (x_0.ndim - 1)), x_0.flip(-1), x_0)
        return Batch(x_0, self._condition(indices, dropped < self._config.label_dropout), draws)

    def _condition(self, indices: np.ndarray, dropped: Tensor) -> Tensor | None:
        if self._conditions is not None:
            rows = torch.from_numpy(self._conditions[indices])
            return torch.where(dropped[:, None], torch.nan, rows)
        if not self._classes or self._dataset.labels is None:
            return None
        labels = torch.from_numpy(self._dataset.labels[indices])
        return torch.where(dropped, self._classes, labels)


def mixed(seed: int, purpose: str, number: int) -> int:
    """A 63-bit seed for one purpose and one number of a run's seed, unlike that of any other."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
