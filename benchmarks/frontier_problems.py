r"""What the samplers are asked: a denoiser, a noise, and the exact image of that noise under the probability flow.

Every path is one equation in x̄ = x/α and s = σ/α,

    dx̄/d log s = x̄ − D(x̄, s),

so that the reference is one integration of it: the classical Runge–Kutta method, uniform in log s, from the path's noise
to s = 1e-5 where the score is exact (there D is the image), and to the s of the path's t_min where it is a network's,
which has learned nothing below. Closed forms are computed in float64, networks in float32 with x̄ in float64; the same
integration with half as many steps tells how far the reference may be trusted.

A problem is stored in a file of tensors, `ref_NAME.safetensors`: `x_T` (the noise, in the path's own scale), `x_0` (its image),
`condition` (the labels), `draws` (exact samples of the data), and what the denoiser is made of. `Problem.load` reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

import scorefield as sf
from scorefield import paths
from scorefield.denoisers import Denoiser, GaussianMixture, Prediction
from scorefield.model_folder import tensors_from_bytes, tensors_to_bytes
from scorefield.paths import EDM, VP, Path, Rectified
from scorefield.storage import write_bytes

SEED = 20_230
END = 1e-5
STARTS_AT_NO_DATA = 157.0
"""s at which a path that ends in pure noise, where s is infinite, is entered by peers that need a finite one."""


# ── denoisers ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class DiagonalMixture(Denoiser):
    """E[x₀ | x_t] of Σ_k π_k N(m_k, diag v_k), in float64: a mixture of the same axes in every component."""

    path: Path
    weights: Tensor
    means: Tensor
    variances: Tensor

    def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
        """The responsibilities' mean of the components' posterior means."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        x = x_t.double()
        total = alpha**2 * self.variances + sigma**2
        precision = 1.0 / total
        shifted = alpha * self.means
        square = x.square() @ precision.T - 2.0 * x @ (shifted * precision).T + (shifted.square() * precision).sum(-1)
        joint = self.weights.log() - 0.5 * (square + total.log().sum(-1))
        weights = joint.softmax(-1)
        gain = alpha * self.variances * precision
        x_0 = weights @ (self.means - gain * shifted) + x * (weights @ gain)
        return Prediction(x_0.to(x_t.dtype), x_t, t, self.path)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples of the data."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[chosen] + self.variances[chosen].sqrt() * noise


@dataclass(frozen=True, eq=False)
class FullMixture(Denoiser):
    """`scorefield.GaussianMixture` with the axes of all components in one matrix, so that an answer is two products of matrices."""

    path: Path
    weights: Tensor
    means: Tensor
    covariances: Tensor

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (k, D), all eigenvectors side by side (D, k D), and the means along them (k, D)."""
        values, vectors = torch.linalg.eigh(self.covariances)
        side_by_side = vectors.permute(1, 0, 2).reshape(len(vectors[0]), -1).contiguous()
        return values, side_by_side, torch.einsum("kd,kde->ke", self.means, vectors)

    def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
        """The responsibilities' mean of the components' posterior means."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        values, axes, along = self._eigen
        total = alpha**2 * values + sigma**2
        centred = (x_t.double() @ axes).view(len(x_t), *values.shape) - alpha * along
        joint = self.weights.log() - 0.5 * (
            torch.einsum("bke,ke->bk", centred.square(), 1.0 / total) + total.log().sum(-1)
        )
        weights = joint.softmax(-1)
        shrunk = centred * (alpha * values / total) * weights[..., None]
        x_0 = weights @ self.means + shrunk.flatten(1) @ axes.T
        return Prediction(x_0.to(x_t.dtype), x_t, t, self.path)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Exact samples of the data."""
        return GaussianMixture(self.path, self.weights, self.means, self.covariances).draw(count, generator)


@dataclass(eq=False)
class Counted(Denoiser):
    """A denoiser that counts how often it is asked."""

    denoiser: Denoiser
    asked: int = 0

    @property
    def path(self) -> Path:  # type: ignore[override]
        """The denoiser's."""
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Any, condition: Any = None) -> Prediction:
        """One question more."""
        self.asked += 1
        return self.denoiser(x_t, t, condition)


STORED, MADE_OF, FACTS = ("x_T", "x_0", "condition", "draws"), "made_of.", "facts"
"""What a problem's file holds, by name."""

# ── problems ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Problem:
    """A denoiser, noise, and where the exact flow takes it.

    Attributes:
        name: what it is called in the tables.
        denoiser: whom the samplers ask.
        x_T: the noise at the path's t_max, in its own scale.
        x_0: its image, in float64.
        condition: handed to the denoiser.
        draws: exact samples of the data, where there are any.
        error: root mean square by which the reference may be off.
        made_of: what rebuilds the denoiser.
    """

    name: str
    denoiser: Denoiser
    x_T: Tensor  # noqa: N815  # the papers' name
    x_0: Tensor
    condition: Tensor | None = None
    draws: Tensor | None = None
    error: float = 0.0
    made_of: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The denoiser's."""
        return self.denoiser.path

    @property
    def is_network(self) -> bool:
        """Whether the denoiser was trained."""
        return "run" in self.made_of

    @cached_property
    def s_max(self) -> float:
        """s = σ/α at which a peer begins."""
        return _level(self.path, self.path.t_max) if self.path.log_snr(self.path.t_max) > -15 else STARTS_AT_NO_DATA

    @cached_property
    def s_min(self) -> float:
        """s at the path's t_min: the least that a sampler may rely on."""
        return _level(self.path, self.path.t_min)

    @cached_property
    def start(self) -> Tensor:
        """x̄ at s_max; for a path that begins where no data are left, by the first term in α/σ, which costs a peer nothing."""
        return _begin(self.denoiser, self.x_T, self.condition, self.s_max)

    @cached_property
    def digest(self) -> str:
        """Of the noise and its image."""
        parts = (self.x_T.double().numpy().tobytes(), self.x_0.double().numpy().tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:16]

    def first(self, count: int) -> Problem:
        """The same with its first noises alone."""
        condition = None if self.condition is None else self.condition[:count]
        return replace(self, x_T=self.x_T[:count], x_0=self.x_0[:count], condition=condition, draws=None)

    def ask(self, counted: Counted) -> Callable[[Tensor, float], Tensor]:
        """D(x̄, s) of a counted denoiser, in x̄'s dtype."""

        def denoised(x_bar: Tensor, s: float) -> Tensor:
            return _ask(counted, x_bar, s, self.condition, self.x_T.dtype)

        return denoised

    def save(self, folder: File) -> None:
        """Write `ref_NAME.safetensors`: the tensors, and what is no tensor as JSON beside them."""
        tensors = {key: value for key in STORED if (value := getattr(self, key)) is not None}
        tensors |= {MADE_OF + key: value for key, value in self.made_of.items() if isinstance(value, Tensor)}
        made_of = {key: value for key, value in self.made_of.items() if not isinstance(value, Tensor)}
        facts = json.dumps({"name": self.name, "error": self.error, "made_of": made_of}).encode()
        tensors[FACTS] = torch.frombuffer(bytearray(facts), dtype=torch.uint8)
        whole = {key: value.contiguous() for key, value in tensors.items()}
        write_bytes(self.file(folder, self.name), tensors_to_bytes(whole))

    @staticmethod
    def file(folder: File, name: str) -> File:
        """Where a problem is stored."""
        return folder / f"ref_{name}.safetensors"

    @classmethod
    def load(cls, file: File) -> Problem:
        """Read `ref_NAME.safetensors`, the network from its run folder."""
        tensors = tensors_from_bytes(file.read_bytes(), file)
        facts = json.loads(tensors.pop(FACTS).numpy().tobytes())
        parts = {key: value for key, value in tensors.items() if key.startswith(MADE_OF)}
        made_of = facts.pop("made_of") | {key.removeprefix(MADE_OF): value for key, value in parts.items()}
        denoiser = sf.load(made_of["run"]).denoiser if "run" in made_of else _mixture(made_of)
        stored = {key: tensors[key] for key in STORED if key in tensors}
        return cls(denoiser=denoiser, made_of=made_of, **stored, **facts)


def _level(path: Path, t: float) -> float:
    return math.exp(-path.log_snr(t))


def _ask(denoiser: Denoiser, x_bar: Tensor, s: float, condition: Any, dtype: torch.dtype) -> Tensor:
    t = denoiser.path.time_of(-math.log(s))
    x_t = (denoiser.path.alpha(t) * x_bar).to(dtype)
    return denoiser(x_t, t, condition).x0.to(x_bar.dtype)


def _begin(denoiser: Denoiser, x_T: Tensor, condition: Any, s: float) -> Tensor:
    """x̄ at s, from the path's end.

    From α = 0, where x̄ is infinite, x/σ changes by D d(α/σ), and D hardly at all.
    """
    path = denoiser.path
    if path.log_snr(path.t_max) > -15.0:
        return x_T.double() / path.alpha(path.t_max)
    return s * x_T.double() + denoiser(x_T, path.t_max, condition).x0.double()


def _mixture(made_of: dict[str, Any]) -> Denoiser:
    """The closed form that a file describes."""
    path = getattr(paths, made_of["path"])(**made_of["settings"])
    kind = DiagonalMixture if made_of["kind"] == "diagonal" else FullMixture
    return kind(path, made_of["weights"], made_of["means"], made_of["spreads"])


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def flow_image(denoiser: Denoiser, x_T: Tensor, condition: Any, *, end: float, steps: int) -> Tensor:
    """The probability flow's image of x_T: RK4 of dx̄/d log s = x̄ − D, uniform in log s, then D at `end`."""
    path = denoiser.path
    high = _level(path, path.t_max) if path.log_snr(path.t_max) > -15.0 else 10.0 * STARTS_AT_NO_DATA
    x = _begin(denoiser, x_T, condition, high)
    width = (math.log(end) - math.log(high)) / steps

    def slope(x_bar: Tensor, tau: float) -> Tensor:
        return x_bar - _ask(denoiser, x_bar, math.exp(tau), condition, x_T.dtype)

    for k in range(steps):
        tau = math.log(high) + k * width
        first = slope(x, tau)
        second = slope(x + 0.5 * width * first, tau + 0.5 * width)
        third = slope(x + 0.5 * width * second, tau + 0.5 * width)
        fourth = slope(x + width * third, tau + width)
        x = x + width / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
    return _ask(denoiser, x, end, condition, x_T.dtype)


def _referenced(
    name: str, denoiser: Denoiser, x_T: Tensor, *, end: float, steps: int, condition: Any = None, **rest: Any
) -> Problem:
    """A problem with its reference, and by how much half as many steps differ, over 15 (RK4's order)."""
    x_0 = flow_image(denoiser, x_T, condition, end=end, steps=steps)
    coarse = flow_image(denoiser, x_T, condition, end=end, steps=steps // 2)
    error = float((x_0 - coarse).square().mean().sqrt()) / 15.0
    return Problem(name, denoiser, x_T, x_0, condition=condition, error=error, **rest)


# ── closed forms ─────────────────────────────────────────────────────────────────────────────────────────────────────

CLOSED_PATHS: dict[str, Path] = {"vp": VP(), "edm": EDM()}


def closed_form(name: str, count: int, steps: int) -> Problem:
    """The problem called TARGET-PATH, such as `ring8-vp`."""
    target, path_name = name.rsplit("-", 1)
    path = CLOSED_PATHS[path_name]
    made_of = {"path": type(path).__name__, "settings": asdict(path), **TARGETS[target]()}
    denoiser = _mixture(made_of)
    generator = torch.Generator().manual_seed(SEED)
    x_T = path.prior_std * torch.randn(count, made_of["means"].shape[1], generator=generator, dtype=torch.float64)
    draws = denoiser.draw(4 * count, generator)  # type: ignore[attr-defined]
    return _referenced(name, denoiser, x_T, end=END, steps=steps, draws=draws, made_of=made_of)


def _diagonal(weights: Tensor, means: Tensor, variances: Tensor) -> dict[str, Any]:
    spreads = variances.expand_as(means).contiguous()
    return {"kind": "diagonal", "weights": weights / weights.sum(), "means": means, "spreads": spreads}


def _ring8() -> dict[str, Any]:
    """Eight modes of standard deviation .07 on the unit circle."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = torch.stack([angles.cos(), angles.sin()], 1)
    return _diagonal(torch.ones(8, dtype=torch.float64), means, torch.tensor(0.07**2, dtype=torch.float64))


def _correlated8() -> dict[str, Any]:
    """Three full covariances in eight dimensions, of condition 1e3, whose axes have nothing in common."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(3, 8, 8, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(-3.0, 0.0, 8, dtype=torch.float64)
    means = 0.8 * torch.randn(3, 8, generator=generator, dtype=torch.float64)
    covariances = axes @ torch.diag(values) @ axes.mT
    return {
        "kind": "full",
        "weights": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        "means": means,
        "spreads": covariances,
    }


def _digits64() -> dict[str, Any]:
    """One full covariance for each digit of scikit-learn's 8×8 images, scaled to [−1, 1]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    data, labels = torch.tensor(digits.data / 8.0 - 1.0, dtype=torch.float64), torch.tensor(digits.target)
    parts = [data[labels == label] for label in range(10)]
    floor = 1e-3 * torch.eye(64, dtype=torch.float64)
    return {
        "kind": "full",
        "weights": torch.tensor([len(part) / len(data) for part in parts], dtype=torch.float64),
        "means": torch.stack([part.mean(0) for part in parts]),
        "spreads": torch.stack([part.T.cov() + floor for part in parts]),
    }


def _power256() -> dict[str, Any]:
    """Six modes in 256 dimensions whose k-th variance falls as k⁻², over nearly five decades, as an image's spectrum does."""
    generator = torch.Generator().manual_seed(2)
    spectrum = torch.arange(1, 257, dtype=torch.float64) ** -2.0
    spectrum = 0.25 * 256 * spectrum / spectrum.sum()
    means = (0.5 * spectrum).sqrt() * torch.randn(6, 256, generator=generator, dtype=torch.float64)
    tilt = torch.rand(6, 256, generator=generator, dtype=torch.float64) + 0.25
    return _diagonal(torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 1.0], dtype=torch.float64), means, 0.5 * tilt * spectrum)


def _separated4() -> dict[str, Any]:
    """Six modes of standard deviation .1 in four dimensions, two and more apart, of unequal weights."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    means = 2.0 * directions / directions.norm(dim=1, keepdim=True)
    return _diagonal(torch.arange(1, 7, dtype=torch.float64), means, torch.tensor(0.01, dtype=torch.float64))


TARGETS: dict[str, Callable[[], dict[str, Any]]] = {
    "ring8": _ring8,
    "correlated8": _correlated8,
    "digits64": _digits64,
    "power256": _power256,
    "separated4": _separated4,
}
CLOSED_FORMS = tuple(f"{target}-{path}" for target in TARGETS for path in CLOSED_PATHS)


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def network(name: str, run: str, count: int, steps: int) -> Problem:
    """A trained model and its own flow; classes, where it has any, are drawn as `Model.sample` does."""
    model = sf.load(run)
    x_T, labels = model.noise(count, seed=SEED), model.labels(SEED, 0, count)
    end = _level(model.config.path, model.config.path.t_min)
    made_of = {"run": str(File(run).resolve()), "weights": weights_digest(run), "steps": steps}
    return _referenced(name, model.denoiser, x_T, end=max(end, 1e-3), steps=steps, condition=labels, made_of=made_of)


def weights_digest(run: str) -> str:
    """Of the configuration and the weights of a run."""
    parts = [(File(run) / part).read_bytes() for part in ("config.json", "model.safetensors")]
    return hashlib.sha256(b"".join(parts)).hexdigest()


# ── the cache ────────────────────────────────────────────────────────────────────────────────────────────────────────


def obtain(name: str, run: str | None, folder: File, count: int, steps: int) -> Problem:
    """A problem from its file, or made and stored where the file is missing, or of other weights, count or steps."""
    file = Problem.file(folder, name)
    wanted = {"run": weights_digest(run)} if run is not None else TARGETS_SOURCE
    mark = hashlib.sha256(json.dumps([name, wanted, count, steps, SEED], sort_keys=True).encode()).hexdigest()
    note = file.with_suffix(".mark")
    if file.exists() and note.exists() and note.read_text() == mark:
        return Problem.load(file)
    problem = closed_form(name, count, steps) if run is None else network(name, run, count, steps)
    problem.save(folder)
    note.write_text(mark)
    return problem


TARGETS_SOURCE = 1
"""Raised when a closed form changes, so that stored references are made anew."""


def rectified_level(s: float) -> float:
    """t = s/(1 + s): the time of the straight path at which the noise level is s."""
    return s / (1.0 + s)


__all__ = ["CLOSED_FORMS", "Counted", "Problem", "Rectified", "flow_image", "obtain", "rectified_level"]
