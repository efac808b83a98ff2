r"""diffusers' schedulers on any path, each in the view of the flow that suits it.

The flow in x̄ = x/α, s = σ/α is everybody's, so a scheduler may be handed it in its own coordinates: variance preserving
(x = x̄/√(1 + s²), asked for ε), unscaled (x = x̄, asked for ε), EDM's (x = x̄, asked for F), or the straight path's
(x = x̄/(1 + s), asked for ε − x₀). Its betas are those of the path, or DDPM's cut at the path's largest s. The noise level
at which it asks is the one it computes with, not the integer time step it was rounded to, and its first noise is scaled to
the level at which its grid begins, as its own pipelines do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from frontier_problems import Counted, Problem
from torch import Tensor

from scorefield.paths import VP, VPCosine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

diffusers.logging.set_verbosity_error()

SECOND_ORDER_ONCE = {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}


@dataclass(frozen=True)
class Setting:
    """One peer in one setting.

    Attributes:
        name: in the tables.
        scheduler: its class in diffusers.
        options: its configuration.
        view: `vp`, `unscaled`, `edm` or `flow`.
        grid: a rule of its own authors that diffusers lacks, set by hand: `rectified`, `time`, `quadratic`, or none.
        stops: whether it ends at the last level but one, as the solvers' official code does, and asks no more.
    """

    name: str
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    view: str = "vp"
    grid: str | None = None
    stops: bool = False
    is_deterministic: bool = True

    def steps(self, budget: int) -> int:
        """The number of steps of so many evaluations."""
        if self.scheduler in SECOND_ORDER_ONCE:
            return (budget + 1) // 2
        return budget - 1 if self.scheduler == "PNDMScheduler" else budget


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

SPACINGS = {
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}


def _family(
    name: str,
    scheduler: str,
    grids: str,
    *,
    view: str = "vp",
    stops: bool = False,
    is_deterministic: bool = True,
    **options: Any,
) -> Iterator[Setting]:
    """A scheduler on several grids."""
    for grid in grids.split():
        own = SPACINGS.get(grid, {})
        label = f"{name}, {grid}{', stops' if stops else ''}"
        custom = None if own or grid == "default" else grid
        yield Setting(label, scheduler, {**options, **own}, view, custom, stops, is_deterministic)


def _settings() -> Iterator[Setting]:
    for spacing in ("leading", "trailing", "linspace"):
        yield from _family("DDIM", "DDIMScheduler", spacing, clip_sample=False)
        yield from _family("PNDM", "PNDMScheduler", spacing, skip_prk_steps=True, set_alpha_to_one=True)
    multi = "DPMSolverMultistepScheduler"
    for order in (2, 3):
        name, common = f"DPM++ {order}M", {"solver_order": order}
        yield from _family(
            name, multi, "linspace leading trailing karras exponential beta lu rectified quadratic", **common
        )
        yield from _family(name, multi, "exponential time quadratic", stops=True, **common)
        yield from _family(
            f"DPM {order}M",
            multi,
            "exponential time quadratic",
            stops=True,
            algorithm_type="dpmsolver",
            final_sigmas_type="sigma_min",
            **common,
        )
        single = "DPMSolverSinglestepScheduler"
        yield from _family(f"DPM++ {order}S", single, "default karras exponential beta", **common)
        yield from _family(f"DEIS-{order}", "DEISMultistepScheduler", "linspace trailing karras exponential", **common)
        for kind in ("bh1", "bh2"):
            unipc, extra = f"UniPC-{order} {kind}", {"solver_type": kind, **common}
            if kind == "bh2":  # B₁(h) = h is infinite on the step to data
                yield from _family(
                    unipc,
                    "UniPCMultistepScheduler",
                    "linspace trailing karras exponential beta rectified quadratic",
                    **extra,
                )
            yield from _family(unipc, "UniPCMultistepScheduler", "exponential time quadratic", stops=True, **extra)
        yield from _family(
            f"SA-Solver-{order}, no noise",
            "SASolverScheduler",
            "linspace karras exponential",
            predictor_order=order,
            corrector_order=order,
            tau_func=_never,
        )
        for schedule in ("karras", "exponential"):
            yield Setting(
                f"EDM DPM++ {order}M, {schedule}",
                "EDMDPMSolverMultistepScheduler",
                {"sigma_schedule": schedule, **common},
                "edm",
            )
    yield from _family("DPM++ 2M heun", multi, "linspace trailing exponential", solver_order=2, solver_type="heun")
    yield from _family("Heun", "HeunDiscreteScheduler", "linspace trailing karras exponential beta", view="unscaled")
    yield from _family("Euler", "EulerDiscreteScheduler", "linspace trailing karras", view="unscaled")
    yield from _family("KDPM2", "KDPM2DiscreteScheduler", "linspace karras", view="unscaled")
    yield from _family("LMS", "LMSDiscreteScheduler", "linspace trailing karras exponential", view="unscaled")
    for schedule in ("karras", "exponential"):
        yield Setting(f"EDM Euler, {schedule}", "EDMEulerScheduler", {"sigma_schedule": schedule}, "edm")
    yield Setting("flow Euler", "FlowMatchEulerDiscreteScheduler", {}, "flow", "rectified")
    yield Setting("flow Heun", "FlowMatchHeunDiscreteScheduler", {}, "flow", "rectified")
    yield from _family(
        "SDE-DPM++ 2M", multi, "linspace karras exponential", algorithm_type="sde-dpmsolver++", is_deterministic=False
    )
    yield from _family("DDPM", "DDPMScheduler", "trailing", is_deterministic=False, clip_sample=False)
    yield from _family(
        "Euler ancestral", "EulerAncestralDiscreteScheduler", "trailing", view="unscaled", is_deterministic=False
    )


def _never(_: float) -> float:
    return 0.0


SETTINGS = tuple(_settings())


# ── running one ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(problem: Problem, counted: Counted, setting: Setting, budget: int) -> Tensor:
    """The image that a peer finds for the problem's noise, in float64."""
    scheduler = _prepare(problem, setting, budget)
    ask = problem.ask(counted)
    view = _View(setting.view, getattr(scheduler.config, "sigma_data", 0.5))
    first = _level(scheduler, scheduler.timesteps[0], setting)
    unit = problem.start / math.sqrt(1.0 + problem.s_max**2)
    x = view.scaled(problem.start if _near(first, problem.s_max) else unit * math.sqrt(1.0 + first**2), first)
    x = x.to(problem.x_T.dtype)
    noise = {} if setting.is_deterministic else {"generator": torch.Generator().manual_seed(11)}
    timesteps = scheduler.timesteps[:-1] if setting.stops else scheduler.timesteps
    s = first
    for t in timesteps:
        if setting.view != "flow":
            scheduler.scale_model_input(x, t)
        s = _level(scheduler, t, setting)
        answer = view.answer(x, s, ask(view.unscaled(x, s), s))
        x = scheduler.step(answer, t, x, **noise).prev_sample
    last = _level_after(scheduler, setting)
    return view.unscaled(x, last).double()


def _near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-3 * b


@dataclass(frozen=True)
class _View:
    """How x̄ and D look to a scheduler."""

    kind: str
    sigma_data: float

    def scaled(self, x_bar: Tensor, s: float) -> Tensor:
        """The scheduler's x."""
        return x_bar * self._factor(s)

    def unscaled(self, x: Tensor, s: float) -> Tensor:
        """x̄."""
        return x / self._factor(s)

    def _factor(self, s: float) -> float:
        return {"vp": 1.0 / math.sqrt(1.0 + s * s), "flow": 1.0 / (1.0 + s)}.get(self.kind, 1.0)

    def answer(self, x: Tensor, s: float, x_0: Tensor) -> Tensor:
        """What the scheduler takes for a network's output."""
        if self.kind == "edm":
            total = s * s + self.sigma_data**2
            return (x_0 - self.sigma_data**2 / total * x) * (math.sqrt(total) / (s * self.sigma_data))
        noise = (self.unscaled(x, s) - x_0) / s
        return noise - x_0 if self.kind == "flow" else noise


def _prepare(problem: Problem, setting: Setting, budget: int) -> Any:
    """A scheduler with its grid."""
    options = dict(setting.options)
    if setting.view == "edm":
        options |= {"sigma_min": problem.s_min, "sigma_max": problem.s_max}
    elif setting.view != "flow":
        options["trained_betas"] = _betas(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, setting.scheduler)(**options)
    steps = setting.steps(budget) + setting.stops
    if setting.view == "flow":
        return _set_flow(scheduler, problem.s_max, steps, setting)
    scheduler.set_timesteps(steps)
    if setting.grid is not None:
        _set_levels(scheduler, _levels(problem, setting.grid, steps, setting.stops))
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def _set_flow(scheduler: Any, s_max: float, steps: int, setting: Setting) -> Any:
    top = s_max / (1.0 + s_max)
    times = np.linspace(top, 0.0, steps + 1)
    if "Heun" in setting.scheduler:
        scheduler.set_timesteps(steps)
        sigmas = torch.tensor(times, dtype=torch.float64)
        inner = sigmas[1:-1].repeat_interleave(2)
        scheduler.sigmas = torch.cat([sigmas[:1], inner, sigmas[-1:]])
        scheduler.timesteps = scheduler.sigmas[:-1] * scheduler.config.num_train_timesteps
    else:
        scheduler.set_timesteps(sigmas=times[:-1].tolist())
    scheduler.set_begin_index(0)
    return scheduler


def _set_levels(scheduler: Any, levels: np.ndarray) -> None:
    """A grid by hand: the noise levels that a scheduler computes with. Its time steps then only count."""
    scheduler.sigmas = torch.tensor(levels, dtype=torch.float32)
    scheduler.timesteps = torch.arange(len(levels) - 1, 0, -1)


def _levels(problem: Problem, grid: str, steps: int, stops: bool) -> np.ndarray:
    """steps + 1 levels: the last is data, or for one that stops, the repeated end that is never reached."""
    high, betas = problem.s_max, np.asarray(_betas(problem))
    if grid == "rectified":
        t = np.linspace(high / (1.0 + high), 0.0, steps + 1)
        return t / (1.0 - t)
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    count = steps if not stops else steps - 1
    u = np.linspace(1.0, 0.0, count + 1)[:-1] if not stops else np.linspace(1.0, 0.0, steps)
    u = u if grid == "time" else u**2
    low = 1.0 / len(betas)
    nodes = low + (1.0 - low) * u if stops else u
    value = np.interp(nodes * len(betas), np.arange(len(betas) + 1), log_alpha_bar)
    inner = np.sqrt(np.expm1(-value))
    return np.concatenate([inner, [0.0 if not stops else inner[-1] * 0.5]])


def _level(scheduler: Any, t: Any, setting: Setting) -> float:
    """s at which the scheduler is about to ask."""
    if not hasattr(scheduler, "sigmas") or setting.scheduler in ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler"):
        return _level_of_step(scheduler, int(t))
    index = scheduler.step_index or 0
    if setting.scheduler == "KDPM2DiscreteScheduler" and not scheduler.state_in_first_order:
        return float(scheduler.sigmas_interpol[index])
    sigma = float(scheduler.sigmas[index])
    return sigma / (1.0 - sigma) if setting.view == "flow" else sigma


def _level_of_step(scheduler: Any, t: int) -> float:
    alpha_bar = float(scheduler.alphas_cumprod[max(t, 0)])
    return math.sqrt((1.0 - alpha_bar) / alpha_bar)


def _level_after(scheduler: Any, setting: Setting) -> float:
    """s that the result has: none, but for a solver that stops before data."""
    if not hasattr(scheduler, "sigmas") or setting.scheduler in ("DDIMScheduler", "PNDMScheduler", "DDPMScheduler"):
        return 0.0
    return float(scheduler.sigmas[-2 if setting.stops else -1])


def _betas(problem: Problem) -> list[float]:
    """The path's own β in 1000 steps; for one that is not variance preserving, DDPM's up to the same s."""
    return list(_betas_of(problem.path, problem.s_max))


@lru_cache(maxsize=64)
def _betas_of(path: Any, s_max: float) -> tuple[float, ...]:
    table = getattr(path, "table", None)
    if table is not None:
        return tuple(table)
    if isinstance(path, (VP, VPCosine)):
        integrals = [path.integrated_rate(i / 1000) for i in range(1001)]
        return tuple(-math.expm1(a - b) for a, b in pairwise(integrals))
    integrals = np.concatenate([[0.0], np.cumsum(-np.log1p(-np.linspace(1e-4, 0.02, 1000)))])
    wanted = math.log1p(s_max**2)
    kept = [*integrals[integrals < wanted - 1e-4], wanted]
    return tuple(-math.expm1(a - b) for a, b in pairwise(kept))


Runner = Callable[[Problem, Counted, Setting, int], Tensor]
__all__ = ["SETTINGS", "Setting", "run"]
