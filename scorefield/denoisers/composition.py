r"""Models combined: products, quotients, powers and mixtures of the densities that denoisers stand for.

    product    p ∝ Π_i p_i^{w_i}      E = Σ_i w_i E_i − (W − 1) R,   ŝ = −∇E,   W = Σ_i w_i            (M10)
    quotient   p ∝ p₁ / p₂^w          the product with weights (1, −w)
    tempered   p ∝ p₁^{1/T}           the product with weight 1/T
    mixture    p = Σ_i π_i p_i        E = −log Σ_i e^{log π_i − log Z_i − E_i},   D = Σ_i r_i D_i,   r = softmax of the exponents

R keeps the noisy end in order. Noise alone is the same N(0, σ² I) for every part, and its product with itself is another law,
N(0, σ² I/W), of which no x_t = α x₀ + σ ε can be: D would have to be infinite at α = 0, and a sampler would start from what its
first level is not. With

    R(x, t) = σ² ‖x‖²/2(α² c² + σ²)²,   c the spread of the data,

the product is N(0, σ² I) where α = 0, and Π p_i^{w_i} itself where σ = 0: the ends are those wanted, and between them stands a
bridge that is integrable where c is no less than the parts' spread. With D = (x_t + σ² ŝ)/α,

    D = Σ_i w_i D_i + (1 − W) h(t) x_t,   h = (1 − σ⁴/(α² c² + σ²)²)/α = α c² (α² c² + 2σ²)/(α² c² + σ²)²,

which divides by α nowhere. Where W = 1 (a geometric mean, or p_∅ Π p(·|y_i)/p_∅) there is nothing to correct.

At t > 0 a product of noised densities is not the noised product, so no reverse process, flow or SDE, draws from it. A walk by
Langevin steps at every level does, the better the more of them: `AnnealedLangevin`, or `PredictorCorrector`, with a Metropolis
test where energies are known. A mixture of noised densities is the noised mixture: any sampler draws from it.

Source: Du et al. 2023, "Reduce, reuse, recycle"; Liu et al. 2022, "Compositional visual generation".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

from scorefield.arithmetic import Time, along_batch, is_number, per_sample_sum
from scorefield.denoisers.base import Denoiser, EnergyDenoiser, Prediction
from scorefield.errors import UsageError
from scorefield.paths import Path
from scorefield.shapes import Float, Tensor


@dataclass(frozen=True, eq=False)
class _Product(Denoiser, ABC):
    """Parts with weights; what is the same whether they know their energies or not."""

    denoisers: Sequence[Denoiser]
    weights: Sequence[float] | None = None
    spread: float = 1.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        _require_one_path(name, self.denoisers)
        _require_weights(name, self.denoisers, self.exponents)
        if not 0.0 < self.spread < math.inf:
            raise UsageError(
                f"{name} needs a positive, finite spread (the data's standard deviation in model space), got {self.spread}; for the plain sum of energies, give one far larger than the data's"
            )

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The parts' path."""
        return self.denoisers[0].path

    @property
    def exponents(self) -> tuple[float, ...]:
        """w; ones where none are given."""
        return (1.0,) * len(self.denoisers) if self.weights is None else tuple(self.weights)

    @cached_property
    def excess(self) -> float:
        """W − 1, how often the noise is counted too many."""
        return math.fsum(self.exponents) - 1.0

    def _predict(self, x_t: Tensor, t: Time, condition: Any) -> Prediction:
        """D = Σ_i w_i D_i − (W − 1) h x_t."""
        h = -self.excess * _restoring(self.path, t, self.spread)
        x_0 = along_batch(h, x_t) * x_t
        for weight, denoiser in zip(self.exponents, self.denoisers, strict=True):
            x_0 = x_0.add(denoiser(x_t, t, condition).x0, alpha=weight)
        return Prediction(x_0, x_t, t, self.path)


@final
@dataclass(frozen=True, eq=False)
class Product(_Product):
    """The product p ∝ Π p_i^{w_i} of what denoisers stand for; its score is the parts' weighted sum  (Du et al. 2023, eq. 11).

    A negative weight divides: the quotient of a density by one that is not narrower is no density, and a walk on it runs away.

    Attributes:
        denoisers: the parts, of one path.
        weights: w, one a part; ones where None.
        spread: c, about the standard deviation of the data in model space, of the bridge from noise to product.

    Raises:
        UsageError: parts of several paths, or weights that do not fit them.

    Example:
        >>> import scorefield as sf, torch
        >>> one, eye = torch.ones(1), torch.eye(2)[None]
        >>> left, right = (sf.GaussianMixture(sf.VP(), one, torch.full((1, 2), m), eye) for m in (-1.0, 3.0))
        >>> sf.Product((left, right))(torch.zeros(1, 2), 1e-5).score.round()
        tensor([[2., 2.]])
    """

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """D = Σ_i w_i D_i − (W − 1) h x_t; the condition goes to every part that has none of its own."""
        return self._predict(x_t, t, condition)


@final
@dataclass(frozen=True, eq=False)
class ProductEnergy(_Product, EnergyDenoiser):
    """`Product` of denoisers that know their energies, and so does it:  E = Σ_i w_i E_i − (W − 1) R  (M10).

    Attributes:
        denoisers, weights, spread: as `Product`'s.

    Raises:
        UsageError: as `Product`, and a part without energy.
    """

    denoisers: Sequence[EnergyDenoiser]

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_energies("ProductEnergy", self.denoisers, "use Product")

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """As `Product`."""
        return self._predict(x_t, t, condition)

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E = Σ_i w_i E_i − (W − 1) σ²‖x‖²/2(α² c² + σ²)²  (M10); the parts' constants add up to one of its own."""
        half = 0.5 * self.excess * _noise_precision(self.path, t, self.spread)
        total = per_sample_sum(x_t.square()) * (-half if is_number(half) else -half.to(x_t))
        for weight, denoiser in zip(self.exponents, self.denoisers, strict=True):
            total = total + weight * denoiser.energy(x_t, t, condition)
        return total


@final
@dataclass(frozen=True, eq=False)
class Union(EnergyDenoiser):
    """The mixture p = Σ π_i p_i of what denoisers stand for; only energies can say which part an x_t is from  (M10).

    An energy is known up to a constant of each t. With p_i = e^{−E_i}/Z_i the weight that part i gets at time t is π_i Z_i(t),
    so that π means what it says only where the Z_i are equal, as for normalised densities, or are given. At pure noise the
    energies of trained networks (`NetworkEnergy`) are ½‖x‖²/σ², all with the same Z; nearer to data their Z_i part.

    Attributes:
        denoisers: the parts, of one path, each with an energy.
        weights: π, one a part and positive, scaled to sum to one; equal where None.
        log_constants: t ↦ (log Z_1(t), …), where they are known and differ.

    Raises:
        UsageError: parts of several paths or without energy, or weights that do not fit them.

    Example:
        >>> import scorefield as sf, torch
        >>> one, eye = torch.ones(1), torch.eye(2)[None]
        >>> left, right = (sf.GaussianMixture(sf.VP(), one, torch.full((1, 2), m), eye) for m in (-1.0, 3.0))
        >>> sf.Union((left, right), (1.0, 3.0)).shares(torch.ones(1, 2), 1e-5)
        tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """

    denoisers: Sequence[EnergyDenoiser]
    weights: Sequence[float] | None = None
    log_constants: Callable[[Time], Sequence[Time]] | None = None

    def __post_init__(self) -> None:
        _require_one_path("Union", self.denoisers)
        _require_energies("Union", self.denoisers, "draw from each part by itself as often as its weight says")
        weights = self._given
        _require_weights("Union", self.denoisers, weights)
        if min(weights) <= 0.0:
            raise UsageError(f"Union needs positive weights, got {weights}; leave out the parts of weight 0")

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The parts' path."""
        return self.denoisers[0].path

    @property
    def _given(self) -> tuple[float, ...]:
        return (1.0,) * len(self.denoisers) if self.weights is None else tuple(self.weights)

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """D = Σ_i r_i D_i."""
        shares = self.shares(x_t, t, condition).to(x_t.dtype)
        x_0 = x_t.new_zeros(x_t.shape)
        for share, denoiser in zip(shares.unbind(1), self.denoisers, strict=True):
            x_0 = x_0 + along_batch(share, x_t) * denoiser(x_t, t, condition).x0
        return Prediction(x_0, x_t, t, self.path)

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E = −log Σ_i e^{log π_i − log Z_i − E_i}  (M10)."""
        return -self._exponents(x_t, t, condition).logsumexp(1)

    def shares(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, "b n"]:
        """r_i, the probability that x_t is of part i."""
        return self._exponents(x_t, t, condition).softmax(1)

    def _exponents(self, x_t: Tensor, t: Time, condition: Any) -> Tensor:
        """log π_i − log Z_i − E_i, (b, n)."""
        import torch

        total = math.fsum(self._given)
        constants = (0.0,) * len(self.denoisers) if self.log_constants is None else self.log_constants(t)
        rows = zip(self._given, constants, self.denoisers, strict=True)
        return torch.stack([math.log(w / total) - log_z - part.energy(x_t, t, condition) for w, log_z, part in rows], 1)


@dataclass(frozen=True, eq=False)
class _Conditioned(Denoiser, ABC):
    denoiser: Denoiser
    condition: Any

    @property
    def path(self) -> Path:  # type: ignore[override]  # read-only where the base declares an attribute
        """The wrapped denoiser's path."""
        return self.denoiser.path

    @abstractmethod
    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ given the condition that was fixed."""

    def _fixed(self, x_t: Tensor) -> Any:
        """One sample's condition for each of the batch."""
        import torch

        if self.condition is None:
            return None
        one = torch.as_tensor(self.condition, device=x_t.device)
        return one.expand(len(x_t), *one.shape)


@final
@dataclass(frozen=True, eq=False)
class Conditioned(_Conditioned):
    """A denoiser whose condition is fixed, whatever condition it is asked with: one part of a composition.

    Attributes:
        denoiser: takes a condition.
        condition: one sample's, for all: a class's number, a vector, or None for nothing.

    Example:
        >>> import scorefield as sf, torch
        >>> given = sf.NetworkDenoiser(lambda x, label, number: 0 * x + number[:, None], sf.VP(), sf.Data())
        >>> sf.Conditioned(given, 3)(torch.zeros(2, 1), 0.5).x0
        tensor([[3.],
                [3.]])
    """

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """Predict x₀ given the condition that was fixed."""
        return self.denoiser(x_t, t, self._fixed(x_t))


@final
@dataclass(frozen=True, eq=False)
class ConditionedEnergy(_Conditioned, EnergyDenoiser):
    """`Conditioned` around a denoiser that knows its energy, which it still does  (M10).

    Attributes:
        denoiser, condition: as `Conditioned`'s.
    """

    denoiser: EnergyDenoiser

    def __call__(self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None) -> Prediction:
        """As `Conditioned`."""
        return self.denoiser(x_t, t, self._fixed(x_t))

    def energy(
        self, x_t: Float[Tensor, "b *d"], t: float | Float[Tensor, " b"], condition: Any = None
    ) -> Float[Tensor, " b"]:
        """E(x_t, t) given the condition that was fixed  (M10)."""
        return self.denoiser.energy(x_t, t, self._fixed(x_t))


def product(denoisers: Sequence[Denoiser], weights: Sequence[float] | None = None, spread: float = 1.0) -> _Product:
    """Π p_i^{w_i}: a `ProductEnergy` where every part knows its energy, a `Product` otherwise.

    Raises:
        UsageError: as `Product`.
    """
    known = [part for part in denoisers if isinstance(part, EnergyDenoiser)]
    if len(known) == len(denoisers):
        return ProductEnergy(known, weights, spread)
    return Product(denoisers, weights, spread)


def negation(positive: Denoiser, negative: Denoiser, weight: float = 1.0, spread: float = 1.0) -> _Product:
    """p₁/p₂^w, what is like the one and not like the other: the product with weights (1, −w).

    It is a density only where p₁ falls faster than p₂^w, far from the data too: take a `negative` as wide as `positive`, or w < 1.

    Raises:
        UsageError: w is not positive, or as `Product`.
    """
    if not 0.0 < weight < math.inf:
        raise UsageError(f"negation needs a positive, finite weight, got {weight}; to strengthen the part, use product")
    return product((positive, negative), (1.0, -weight), spread)


def tempered(denoiser: Denoiser, temperature: float, spread: float = 1.0) -> _Product:
    """p^{1/T}: T < 1 draws what is likeliest, T > 1 what is less.

    Raises:
        UsageError: T is not positive.
    """
    if not 0.0 < temperature < math.inf:
        raise UsageError(f"tempered needs a positive, finite temperature, got {temperature}")
    return product((denoiser,), (1.0 / temperature,), spread)


def conditioned(denoiser: Denoiser, condition: Any) -> Conditioned | ConditionedEnergy:
    """A denoiser with its condition fixed: a `ConditionedEnergy` where it knows its energy, a `Conditioned` otherwise."""
    if isinstance(denoiser, EnergyDenoiser):
        return ConditionedEnergy(denoiser, condition)
    return Conditioned(denoiser, condition)


def _restoring(path: Path, t: Time, spread: float) -> Time:
    """h = α c² (α² c² + 2σ²)/(α² c² + σ²)², which is (1 − σ⁴/(α² c² + σ²)²)/α."""
    alpha, variance = path.alpha(t), path.sigma(t) ** 2
    signal = (alpha * spread) ** 2
    return alpha * spread**2 * (signal + 2.0 * variance) / (signal + variance) ** 2


def _noise_precision(path: Path, t: Time, spread: float) -> Time:
    """σ²/(α² c² + σ²)², with which a part of the noise is taken out of the product."""
    alpha, variance = path.alpha(t), path.sigma(t) ** 2
    return variance / ((alpha * spread) ** 2 + variance) ** 2


def _require_one_path(name: str, denoisers: Sequence[Denoiser]) -> None:
    if not denoisers:
        raise UsageError(f"{name} needs at least one denoiser, got none")
    for other in denoisers[1:]:
        if other.path != denoisers[0].path:
            raise UsageError(
                f"{name} needs denoisers of one path, for at one time they must see one noise level; got {denoisers[0].path} and {other.path}; train them on the same path"
            )


def _require_weights(name: str, denoisers: Sequence[Denoiser], weights: Sequence[float]) -> None:
    if len(weights) != len(denoisers) or not all(math.isfinite(weight) for weight in weights):
        raise UsageError(f"{name} of {len(denoisers)} denoisers needs as many finite weights, got {tuple(weights)}")


def _require_energies(name: str, denoisers: Sequence[Denoiser], fix: str) -> None:
    for denoiser in denoisers:
        if not isinstance(denoiser, EnergyDenoiser):
            raise UsageError(
                f"{name} compares energies, and {type(denoiser).__name__} has none; {fix}, or use models trained with parameterisation=energy"
            )
