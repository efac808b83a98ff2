r"""A likelihood over many samples: bits per dimension with two standard errors.

    (M19) bits/dim = L/(D ln 2)

With R repeats of noise a sample, L_ir: the estimate is the mean over both. What another set of data would change is the
standard error over the data, std_i(L̄_i)/√n, which the noise is part of; what another seed would change on these data is that
over the noise, √(mean_i var_r(L_ir)/R)/√n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch

from scorefield.errors import UsageError
from scorefield.likelihood.bound import Profile
from scorefield.likelihood.methods import Estimate, Method, Ready
from scorefield.likelihood.subject import Batch, Subject
from scorefield.shapes import Float, Int, Tensor
from scorefield.streams import SampleStreams

_PILOTS, _PILOT_VALUES, _MOST_PILOTS = 16, 4096, 256


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """A likelihood, measured.

    Attributes:
        method: bound or flow.
        nats: (n, R) −log p of each sample by each repeat: of the probability of integers, of the density of other data.
        dimension: D.
        evaluations: (mean, max) a sample: of the denoiser for one repeat's bound, or for one solution of the flow.
        parts: (n, R) each: what nats is the sum of, for a bound: prior L_T, steps, decoder L₀.
        profile: how a bound's steps are spread over the noise, summed over samples and repeats.
        settings: what was asked for, and what was chosen.
    """

    method: str
    nats: Float[Tensor, "n r"]
    dimension: int
    evaluations: tuple[float, float]
    parts: Mapping[str, Float[Tensor, "n r"]] = field(default_factory=dict)
    profile: Profile | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """Bits per dimension  (M19)."""
        return self.bits(self.nats.mean())

    @property
    def standard_error(self) -> float | None:
        """What another set of as many data would change, in bits per dimension; None for a single sample."""
        return self.bits(self.nats.mean(1).std() / math.sqrt(len(self.nats))) if len(self.nats) > 1 else None

    @property
    def noise_error(self) -> float | None:
        """What another seed would change, in bits per dimension; None for a single repeat."""
        noise = self._noise_variances()
        return None if noise is None else self.bits((noise.mean() / len(noise)).sqrt())

    @property
    def per_sample(self) -> Float[Tensor, " n"]:
        """Bits per dimension of each sample."""
        return self.nats.mean(1) / (self.dimension * math.log(2.0))

    @property
    def per_sample_noise(self) -> Float[Tensor, " n"] | None:
        """Each one's standard error over the noise; None for a single repeat."""
        noise = self._noise_variances()
        return None if noise is None else noise.sqrt() / (self.dimension * math.log(2.0))

    @property
    def terms(self) -> dict[str, float]:
        """The parts' means in bits per dimension."""
        return {name: self.bits(part.mean()) for name, part in self.parts.items()}

    def bits(self, nats: Tensor | float) -> float:
        """Nats of one sample as bits per dimension  (M19)."""
        return float(nats) / (self.dimension * math.log(2.0))

    def shifted(self, nats: float) -> Measured:
        """The same with so much added to every −log p: a change of units."""
        moved = {"units": torch.full_like(self.nats, nats)} if self.parts else {}
        parts = {**self.parts, **moved}
        return Measured(
            self.method, self.nats + nats, self.dimension, self.evaluations, parts, self.profile, self.settings
        )

    def as_json(self) -> dict[str, Any]:
        """The figures, without those of each sample."""
        return {
            "method": self.method,
            "bits_per_dim": self.value,
            "standard_error": self.standard_error,
            "noise_error": self.noise_error,
            "nats": float(self.nats.mean()),
            "samples": len(self.nats),
            "repeats": self.nats.shape[1],
            "dimension": self.dimension,
            "terms": self.terms,
            "evaluations": {"mean": self.evaluations[0], "max": self.evaluations[1]},
            "settings": dict(self.settings),
        }

    def _noise_variances(self) -> Tensor | None:
        """The variance of each sample's mean over the repeats."""
        repeats = self.nats.shape[1]
        return self.nats.var(1) / repeats if repeats > 1 else None


def measure(
    method: Method,
    subject: Subject,
    x_0: Float[Tensor, "n *d"],
    *,
    condition: Any = None,
    seed: int = 0,
    repeats: int = 2,
    batch: int = 256,
    samples: Int[Tensor, " n"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Measure the likelihood of data in model space under any denoiser.

    Args:
        method: `VariationalBound` or `FlowLikelihood`.
        subject: the denoiser, and what is known of its data.
        x_0: the data, in the dtype that the denoiser is asked in.
        condition: what p(x|y) is conditioned on, one entry a sample.
        seed: of the noise.
        repeats: R, how often each sample is measured, with noise of its own; once where nothing is random.
        batch: how many rows the denoiser is asked at once; the results do not depend on it.
        samples: the number of each sample's stream of noise; 0 … n − 1 where None.
        progress: told how many samples are done.

    Raises:
        UsageError: no data, no repeats, data off their levels, or a method that does not fit.

    Example:
        >>> import torch, scorefield as sf
        >>> world = sf.GaussianMixture(sf.EDM(), torch.ones(1).double(), torch.zeros(1, 2).double(), torch.eye(2).double()[None])
        >>> x = world.draw(100, torch.Generator().manual_seed(0))
        >>> found = sf.measure(sf.FlowLikelihood(), sf.Subject(world), x)
        >>> abs(found.value + float(world.log_density(x, 0.0).mean()) / (2 * 0.6931)) < 0.001
        True
    """
    if len(x_0) == 0 or repeats < 1 or batch < 1:
        raise UsageError(
            f"a likelihood needs data, repeats ≥ 1 and batch ≥ 1, got {len(x_0)} samples, repeats={repeats}, batch={batch}"
        )
    _require_on_levels(x_0, subject.levels)
    numbers = torch.arange(len(x_0), device=x_0.device) if samples is None else samples.to(x_0.device)
    whole = Batch(x_0, SampleStreams(seed, numbers), condition, batch, subject.levels)
    with torch.no_grad():
        ready = method.ready(subject, whole.part(slice(0, _pilots(whole.dimension))))
        rows, times = [], repeats if ready.is_random else 1
        for start in range(0, len(x_0), batch):
            part = whole.part(slice(start, start + batch))
            rows.append([ready.estimate(subject, part, repeat) for repeat in range(times)])
            if progress is not None:
                progress(min(start + batch, len(x_0)))
    return _collected(method.name, ready, rows, x_0[0].numel())


def _collected(name: str, ready: Ready, rows: Sequence[Sequence[Estimate]], dimension: int) -> Measured:
    """The estimates of all batches (rows) and repeats (columns) as one record."""

    def joined(parts: Sequence[Sequence[Tensor]]) -> Tensor:
        return torch.cat([torch.stack(list(repeats), 1) for repeats in parts]).cpu()

    first = rows[0][0]
    parts = {key: joined([[found.parts[key] for found in repeats] for repeats in rows]) for key in first.parts}
    asked = joined([[found.evaluations for found in repeats] for repeats in rows])
    profiles = [found.profile for repeats in rows for found in repeats if found.profile is not None]
    profile = sum(profiles[1:], start=profiles[0]) if profiles else None
    nats = joined([[found.nats for found in repeats] for repeats in rows])
    evaluations = (float(asked.mean()), float(asked.max()))
    return Measured(name, nats, dimension, evaluations, parts, profile, ready.settings)


def _pilots(dimension: int) -> int:
    """How many samples the choices are made on: the more, the less each one says. It does not depend on the batch."""
    return max(_PILOTS, min(_MOST_PILOTS, _PILOT_VALUES // dimension))


def _require_on_levels(x_0: Tensor, levels: int | None) -> None:
    """Refuse data that are not where integers are in model space: a probability of theirs would mean nothing."""
    if not bool(torch.isfinite(x_0).all()):
        raise UsageError("the data have values that are not finite; leave those examples out")
    if levels is None:
        return
    number = (x_0.double() + 1.0) * (levels - 1) / 2.0
    off = float((number - number.round()).abs().max())
    if off > 0.01 or float(number.min()) < -0.5 or float(number.max()) > levels - 0.5:
        raise UsageError(
            f"the model is of integers of {levels} levels, and the data have values between or beyond them; give data of the kind it was trained on"
        )
