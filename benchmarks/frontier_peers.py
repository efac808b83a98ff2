r"""azula's and k-diffusion's samplers on stored problems: runs in an environment of their own (`make peers`).

Both think in noise levels, so the flow in x̄ = x/α, s = σ/α is handed to them as it is: azula with α = 1/(1 + s), which
its multistep methods do not notice, k-diffusion unscaled. Where each begins and ends is the grid's: uniform in log s, in
s/(1 + s), in arctan s (the cosine schedule's time), in the time of the variance-preserving path or its root, or Karras', down to the
path's own least level or a higher one, whichever turns out better. k-diffusion takes D at the last level; azula stops there.

    .venv-peers/bin/python benchmarks/frontier_peers.py --folder runs/frontier ring8-vp digits64-vp
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path as File
from types import ModuleType
from typing import Any

import numpy as np
import torch
from frontier_measure import BUDGETS, surveyed
from frontier_problems import Counted, Problem
from torch import Tensor

from scorefield.paths import VP


@dataclass(frozen=True)
class Setting:
    """One peer in one setting: a sampler, its options, and its grid's rule with the lowest level (None: the path's own)."""

    sampler: str
    grid: str
    low: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    calls: int = 1
    is_deterministic: bool = True

    @property
    def name(self) -> str:
        """In the tables."""
        shown = " ".join(f"{key}={value}" for key, value in self.options.items())
        return (
            f"{self.sampler}{' ' if shown else ''}{shown}, {self.grid}{'' if self.low is None else f' to {self.low:g}'}"
        )


# ── grids ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def levels(problem: Problem, setting: Setting, count: int) -> np.ndarray:
    """`count` noise levels from s_max down to the setting's lowest, uniform in what the grid's name says."""
    high, low = problem.s_max, max(problem.s_min, 1e-3) if setting.low is None else setting.low
    if count == 1:
        return np.array([high])
    to, back = _RULES[setting.grid]
    inner = back(np.linspace(to(high), to(low), count)[1:-1]) if count > 2 else np.array([])
    return np.concatenate([[high], inner, [low]])


def _vp_time(s: float) -> float:
    return float(VP().time_of(-math.log(s))) if s > 0 else 0.0


def _vp_level(t: np.ndarray) -> np.ndarray:
    return np.array([math.exp(-VP().log_snr(float(one))) for one in t])


_RULES: dict[str, tuple[Callable[[float], float], Callable[[np.ndarray], np.ndarray]]] = {
    "log": (math.log, np.exp),
    "rectified": (lambda s: s / (1 + s), lambda r: r / (1 - r)),
    "cosine": (math.atan, np.tan),
    "time": (_vp_time, _vp_level),
    "quadratic": (lambda s: math.sqrt(_vp_time(s)), lambda u: _vp_level(u**2)),
    "karras": (lambda s: s ** (1 / 7), lambda u: u**7),
}


# ── azula ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def azula_settings() -> Iterator[Setting]:
    """Every deterministic sampler on the grids it can use, and its stochastic one."""
    ends = (
        ("log", None),
        ("log", 0.01),
        ("rectified", 0.01),
        ("cosine", 0.01),
        ("time", 0.03),
        ("quadratic", 0.01),
        ("karras", None),
    )
    to_data = (("rectified", 0.0), ("cosine", 0.0), ("time", 0.0), ("quadratic", 0.0))
    for order in (2, 3, 4):
        for grid, low in (*ends, *to_data):
            yield Setting("vAB", grid, low, {"order": order})
            if order < 4:
                yield Setting("zAB", grid, low, {"order": order})
        for grid, low in ends:
            for sampler in ("zEAB", "xEAB", "REAB") if order < 4 else ():
                yield Setting(sampler, grid, low, {"order": order})
    for grid, low in (*to_data, ("log", None), ("karras", None)):
        yield Setting("DDIM", grid, low)
        yield Setting("Heun", grid, 0.01 if low == 0.0 else low, calls=2)
    yield Setting("DDPM", "time", 0.03, is_deterministic=False)
    yield Setting("DDPM", "log", 0.01, is_deterministic=False)


def run_azula(problem: Problem, counted: Counted, setting: Setting, budget: int) -> Tensor:
    """azula's image of the problem's noise."""
    azula = importlib.import_module("azula.sample")
    steps = budget // setting.calls
    found = torch.from_numpy(levels(problem, setting, steps + 1))
    denoiser = _azula_denoiser(problem, counted, found)
    torch.manual_seed(11)
    sampler = getattr(azula, f"{setting.sampler}Sampler")(
        denoiser, steps=steps, silent=True, dtype=torch.float64, **setting.options
    )
    x = problem.start / (1.0 + problem.s_max)
    return sampler(x) * (1.0 + found[-1])


def _azula_denoiser(problem: Problem, counted: Counted, found: Tensor) -> Any:
    """D as azula's denoiser, on the straight path with the grid's levels at uniform times."""
    base = importlib.import_module("azula.denoise")
    ask = problem.ask(counted)

    def schedule(t: Tensor) -> tuple[Tensor, Tensor]:
        s = found[((1.0 - t) * (len(found) - 1)).round().long()]
        return 1.0 / (1.0 + s), s / (1.0 + s)

    class Asked(base.Denoiser):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> Any:
            alpha, sigma = schedule(t)
            return base.DiracPosterior(ask(x_t / alpha, float(sigma / alpha)))

    return Asked()


# ── k-diffusion ──────────────────────────────────────────────────────────────────────────────────────────────────────


def k_diffusion_settings() -> Iterator[Setting]:
    """Its samplers on its grids; the stochastic ones with no noise are deterministic multistep methods."""
    grids = (
        ("karras", None),
        ("karras", 0.03),
        ("log", None),
        ("log", 0.03),
        ("time", 0.01),
        ("rectified", 0.03),
        ("cosine", 0.03),
        ("quadratic", 0.01),
    )
    for grid, low in grids:
        yield Setting("euler", grid, low)
        yield Setting("heun", grid, low, calls=2)
        yield Setting("dpm_2", grid, low, calls=2)
        for order in (2, 3, 4):
            yield Setting("lms", grid, low, {"order": order})
        yield Setting("dpmpp_2m", grid, low)
        yield Setting("dpmpp_2m_sde", grid, low, {"eta": 0.0, "solver_type": "heun"})
        yield Setting("dpmpp_3m_sde", grid, low, {"eta": 0.0})
        yield Setting("dpmpp_2s_ancestral", grid, low, {"eta": 0.0}, calls=2)
        if grid in ("karras", "log"):
            yield Setting("dpmpp_2m_sde", grid, low, {"eta": 1.0}, is_deterministic=False)
            yield Setting("dpmpp_3m_sde", grid, low, {"eta": 1.0}, is_deterministic=False)
    yield Setting("dpm_fast", "log", None)
    yield Setting("dpm_fast", "log", 0.01)


def run_k_diffusion(problem: Problem, counted: Counted, setting: Setting, budget: int) -> Tensor:
    """k-diffusion's image of the problem's noise."""
    sample = getattr(_k_diffusion(), f"sample_{setting.sampler}")
    ask = problem.ask(counted)

    def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return ask(x, float(sigma[0]))

    if setting.sampler == "dpm_fast":
        low = float(levels(problem, setting, 2)[-1])
        return sample(model, problem.start, low, problem.s_max, budget, disable=True)
    steps = budget if setting.calls == 1 else (budget + 1) // 2
    sigmas = torch.from_numpy(np.append(levels(problem, setting, steps), 0.0))
    options = dict(setting.options)
    if "eta" in options:
        generator = torch.Generator().manual_seed(11)
        options["noise_sampler"] = lambda *_: torch.randn(problem.start.shape, generator=generator, dtype=torch.float64)
    return sample(model, problem.start, sigmas, disable=True, **options)


def _k_diffusion() -> ModuleType:
    """Its sampling module alone: the package would import its training code, and torchvision, with it."""
    if "k_diffusion" not in sys.modules:
        spec = find_spec("k_diffusion")
        package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
        package.__path__ = list(spec.submodule_search_locations or ()) if spec is not None else []
        utils.append_dims = lambda x, rank: x[(..., *(None,) * (rank - x.ndim))]  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules["k_diffusion"], sys.modules["k_diffusion.utils"] = package, utils
    return importlib.import_module("k_diffusion.sampling")


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────

LIBRARIES: dict[str, tuple[tuple[Setting, ...], Callable[[Problem, Counted, Any, int], Tensor]]] = {
    "azula": (tuple(azula_settings()), run_azula),
    "k-diffusion": (tuple(k_diffusion_settings()), run_k_diffusion),
}


def main() -> int:
    """Survey the named problems with each library and leave `peers_LIBRARY_PROBLEM.json` beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="+")
    parser.add_argument("--folder", type=File, default=File("runs/frontier"))
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    for name in options.problems:
        problem = Problem.load(Problem.file(options.folder, name))
        for library, (settings, run) in LIBRARIES.items():
            surveyed(library, problem, settings, run, options.budgets, options.folder, _report)
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES), file=sys.stderr)
    return 0


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
