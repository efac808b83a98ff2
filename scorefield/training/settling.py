"""What a run's configuration leaves to its data and its machine, settled before anything is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from scorefield.denoisers.parameterisations import Energy, Preconditioned
from scorefield.errors import UsageError
from scorefield.networks.specs import MLPSpec, UNetSpec, default_network
from scorefield.objectives import EDMWeighting, Hybrid, LogNormal, NoiseLevels, Objective, Variational
from scorefield.paths import EDM, VE
from scorefield.samplers import AnnealedLangevin
from scorefield.samplers.noise_levels import level_count
from scorefield.training.configuration import EDM_SIGMA_DATA, RunConfig


@dataclass(frozen=True)
class Surroundings:
    """What a configuration leaves to the data and the machine.

    Attributes:
        shape: of one sample.
        sigma_data: standard deviation of the data in model space about one mean.
        sigma_by_channel: the same about each channel's own mean.
        precision: the fastest number format here.
        levels: how many values the data have between −1 and 1; None for continuous data.
        largest_distance: of two examples, in model space.
    """

    shape: tuple[int, ...]
    sigma_data: float
    sigma_by_channel: tuple[float, ...]
    precision: str
    levels: int | None = None
    largest_distance: float = 50.0

    def sigma_about(self, channel_means: bool) -> float:
        """σ_data about the channels' own means, or about the one mean of all."""
        if not channel_means:
            return self.sigma_data
        return math.sqrt(sum(sigma**2 for sigma in self.sigma_by_channel) / len(self.sigma_by_channel))


def resolved(config: RunConfig, found: Surroundings) -> RunConfig:
    """The configuration with nothing left open: network, optimiser, batch, precision, noise levels and the data's values."""
    if config.data.flip and len(found.shape) != 3:
        raise UsageError(f"data.flip mirrors images (C, H, W), and these data are {found.shape}; leave it out")
    network = config.network or default_network(found.shape)
    is_mlp = isinstance(network, MLPSpec)
    optimiser = config.optimiser
    if optimiser.kind == "auto":
        optimiser = replace(optimiser, kind="adamw" if is_mlp else "muon")
    batch = config.batch or (512 if len(found.shape) == 1 else 64)
    sigma_data = found.sigma_about(config.centre)
    if not sigma_data > 0.0:
        raise UsageError("all examples are equal, so there is nothing to learn; look at them with `scorefield data`")
    fastest = "float32" if config.objective.differentiates else found.precision
    settled = replace(
        config,
        network=network,
        optimiser=optimiser,
        batch=batch,
        precision=fastest if config.precision == "auto" else config.precision,
        objective=_of_levels(config.objective, found.levels),
    )
    return on_its_ladder(_with_levels(_showing_levels(measured(settled, sigma_data), found), found))


def _showing_levels(config: RunConfig, found: Surroundings) -> RunConfig:
    """The network with periods of 1, 2 and 4 of the data's values, as its input has them where there is little noise."""
    network, given, levels = config.network, config.parameterisation, found.levels or 0
    if not (config.show_levels and isinstance(network, UNetSpec) and isinstance(given, Preconditioned) and levels > 1):
        return config
    spacing = 2.0 / (levels - 1) / given.sigma_data
    return replace(
        config, network=replace(network, periods=network.periods or tuple(spacing * 2.0**k for k in range(3)))
    )


def _of_levels(objective: Objective, levels: int | None) -> Objective:
    """The objective told of the data's values, where it decodes them and has not been told otherwise."""
    if isinstance(objective, (Hybrid, Variational)) and objective.levels is None:
        return replace(objective, levels=levels)
    return objective


def measured(config: RunConfig, sigma_data: float) -> RunConfig:
    """The configuration with its noise levels in units of the data, if it asks for that."""
    if not config.measure:
        return config
    ratio = sigma_data / EDM_SIGMA_DATA
    path, parameterisation = config.path, config.parameterisation
    if isinstance(path, EDM):
        path = EDM(path.sigma_min * ratio, path.sigma_max * ratio)
    if isinstance(parameterisation, (Preconditioned, Energy)):
        parameterisation = replace(parameterisation, sigma_data=sigma_data)
    objective = _measured_objective(config.objective, sigma_data, ratio)
    return replace(config, path=path, parameterisation=parameterisation, objective=objective)


def _measured_objective(objective: Any, sigma_data: float, ratio: float) -> Any:
    """The objective with its weighting and its times in units of the data, where it has such."""
    weighting, times = getattr(objective, "weighting", None), objective.times
    if isinstance(weighting, EDMWeighting):
        objective = replace(objective, weighting=replace(weighting, sigma_data=sigma_data))
    if isinstance(times, LogNormal):
        objective = replace(objective, times=replace(times, mean=times.mean + math.log(ratio)))
    return objective


def _with_levels(config: RunConfig, found: Surroundings) -> RunConfig:
    """σ_max is the data's largest distance, and the levels are as many as their dimension needs, where they are measured  (M34)."""
    path, times = config.path, config.objective.times
    if not (config.measure and isinstance(path, VE) and isinstance(times, NoiseLevels)):
        return config
    path = replace(path, sigma_max=max(found.largest_distance, 2.0 * path.sigma_min))
    count = level_count(path.sigma_min, path.sigma_max, math.prod(found.shape))
    objective: Any = config.objective
    return replace(config, path=path, objective=replace(objective, times=replace(times, count=count)))


def on_its_ladder(config: RunConfig) -> RunConfig:
    """The configuration with a ladder's sampler at the levels that it trains, where these are measured  (M34)."""
    sampler, times = config.sampler, config.objective.times
    if config.measure and isinstance(times, NoiseLevels) and isinstance(sampler, AnnealedLangevin):
        return replace(config, sampler=replace(sampler, steps=times.count))
    return config
