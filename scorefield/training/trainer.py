"""One training step, and the state that it changes: weights, their average, the optimiser's moments, the loss history."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorefield.model import Model, make_denoiser
from scorefield.model_config import ModelConfig
from scorefield.objectives import ImportanceSampled, LossHistory
from scorefield.training.average import Average
from scorefield.training.batches import Batch, mixed
from scorefield.training.configuration import RunConfig
from scorefield.training.optimisers import Muon, parameter_groups
from scorefield.training.options import OptimiserConfig
from scorefield.training.processes import World


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step met, over all processes.

    Attributes:
        losses: (b,) weighted losses of the whole batch.
        log_sigma: (b,) their log(σ/α).
        gradient_norm: before clipping.
        is_finite: whether losses and gradients were; where not, nothing has changed.
    """

    losses: Tensor
    log_sigma: Tensor
    gradient_norm: float
    is_finite: bool


class Trainer:
    """A network in training.

    Attributes:
        step: how many steps were made.
        average: the moving average of the weights.
    """

    def __init__(
        self,
        config: RunConfig,
        model_config: ModelConfig,
        world: World,
        device: torch.device,
        moments: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.model_config, self.world, self.device = config, model_config, world, device
        self._moments = moments or {}
        self.network = build_network(model_config, config.seed).to(device)
        self.average = Average(self.network, config.average)
        self.optimiser = make_optimiser(self.network, config.optimiser)
        times = config.objective.times
        self.history = times.empty_history() if isinstance(times, ImportanceSampled) else None
        self.step = 0
        self._peaks = [group["lr"] for group in self.optimiser.param_groups]
        self._parts = world.share(config.batch or 0, config.accumulate)
        self._wrapped = world.wrap(torch.compile(self.network) if config.compile else self.network, device)  # type: ignore[arg-type]
        self._denoiser = make_denoiser(model_config, self._wrapped)
        self.network.train()

    @property
    def model(self) -> Model:
        """The model as it would be used now: the averaged weights."""
        return Model(self.model_config, self.average.network, self._moments)

    def train_step(self, batch: Batch, progress: float) -> StepResult:
        """Make one step on the whole batch (of which this process takes its share) at a progress through the run.

        Where the loss or the gradient's norm is not finite nothing changes but the step's number.
        """
        self.step += 1
        self.optimiser.zero_grad(set_to_none=True)
        rows = [self._micro_batch(batch[part], number) for number, part in enumerate(self._parts)]
        losses, log_sigma, times, unweighted = (
            self.world.gather(torch.cat(column)) for column in zip(*rows, strict=True)
        )
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimiser.clip))
        is_finite = bool(losses.isfinite().all()) and norm < float("inf")
        if is_finite:
            self._update(progress)
            self._remember(times, unweighted)
        return StepResult(losses, log_sigma, norm, is_finite)

    def _micro_batch(self, part: Batch, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Forward and backward of one micro-batch; gradients are exchanged after the last."""
        part = part.to(self.device)
        torch.manual_seed(mixed(self.config.seed, "dropout", (self.step << 20) + self._parts[number].start))
        with self._exchange(number), self._precision():
            found = self.config.objective.losses(self._denoiser, part.x_0, part.draws, part.condition, self.history)
            (found.per_sample.mean() / len(self._parts)).backward()
        return found.per_sample.detach(), found.log_sigma.float(), found.t, found.unweighted_by_importance

    def _exchange(self, number: int) -> AbstractContextManager[Any]:
        is_last = number == len(self._parts) - 1
        return contextlib.nullcontext() if is_last or self.world.size == 1 else self._wrapped.no_sync()  # type: ignore[operator]

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _update(self, progress: float) -> None:
        factor = self.config.optimiser.factor(self.step, progress)
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.optimiser.step()
        self.average.update(self.step)

    def _remember(self, times: Tensor, losses: Tensor) -> None:
        law = self.config.objective.times
        if self.history is not None and isinstance(law, ImportanceSampled):
            self.history = self.history.updated(law.stratum(self.model_config.path, times.cpu()), losses.cpu())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must be saved to go on exactly, as tensors by name."""
        found = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        found |= {f"average.{name}": tensor for name, tensor in self.average.state().items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{number}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        if self.history is not None:
            found |= {"history.losses": self.history.losses, "history.counts": self.history.counts}
        return {name: tensor.detach().contiguous() for name, tensor in found.items()}

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave after that step."""
        self.step = step
        self.network.load_state_dict(_under("network.", tensors))
        self.average.network.load_state_dict(_under("average.", tensors))
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in _under("optimiser.", tensors).items():
            number, _, moment = name.partition(".")
            state.setdefault(int(number), {})[moment] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        if self.history is not None:
            self.history = LossHistory(tensors["history.losses"], tensors["history.counts"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build_network(config: ModelConfig, seed: int) -> nn.Module:
    """The network with initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed(seed, "weights", 0))
        return config.build_network()


def make_optimiser(network: nn.Module, config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser that a configuration describes; the groups' learning rates are the peaks."""
    betas = (config.betas[0], config.betas[1])
    if config.kind == "muon":
        return Muon(parameter_groups(network), config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay, fused=True
    )
