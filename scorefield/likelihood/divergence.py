r"""The trace of a denoiser's Jacobian:  tr J,  J = ∂D/∂x̄ = α ∂D/∂x_t.

Exactly, by one backward pass an element; or by K probes with E[v vᵀ] = I, from whose answers a Gaussian's are taken:

    tr J = tr J_G + E[vᵀ (J − J_G) v]        (Hutchinson 1990; Grathwohl et al. 2019, with a Gaussian control variate)

A probe of ±1 traces a diagonal matrix without error, in whatever axes that is: probes along the Gaussian's directions are exact
for Gaussian data, and good where J has their directions, as for pictures; probes along the data's own axes are good where the
values hardly depend on each other once the mode is known. Which it is can be tried on a few samples (`least_variance`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch

from scorefield.denoisers.base import Denoiser
from scorefield.likelihood.reference import Reference
from scorefield.shapes import Float, Tensor
from scorefield.streams import SampleStreams

EXACT_UP_TO = 256
"""The dimension up to which the trace is exact unless told otherwise: as many backward passes an evaluation."""

_ROWS = 1024
_TRIALS = 4


@final
@dataclass(frozen=True, eq=False)
class Answer:
    """D and tr J for a batch, float64; `residual_trace` is tr J − tr J_G."""

    x_0: Float[Tensor, "b dim"]
    residual_trace: Float[Tensor, " b"]


@final
@dataclass(frozen=True, eq=False)
class Asker:
    """A denoiser that is asked at (x̄, λ), in whose dtype it likes, and answers D with its Jacobian's trace.

    Attributes:
        denoiser: of any kind that can be differentiated.
        reference: the Gaussian of the control variate.
        shape: of one sample.
        dtype: in which the denoiser is asked.
        condition: one entry a sample, or None.
        probes: (K, b, D) for an estimate; None for the exact trace.
        control: whether the Gaussian's answers to the probes are taken from theirs.
    """

    denoiser: Denoiser
    reference: Reference
    shape: tuple[int, ...]
    dtype: torch.dtype
    condition: Any = None
    probes: Float[Tensor, "k b dim"] | None = None
    control: bool = True

    def __call__(self, x_bar: Float[Tensor, "b dim"], log_snr: Float[Tensor, " b"], rows: Tensor) -> Answer:
        """D and tr J − tr J_G at x̄ and λ, for the samples numbered `rows`."""
        path = self.denoiser.path
        t = path.time_of(log_snr).clamp(path.t_min, path.t_max)
        alpha = path.alpha(t)
        x_t = (alpha[:, None] * x_bar).to(self.dtype).view(-1, *self.shape).detach().requires_grad_()
        condition = None if self.condition is None else self.condition[rows]
        with torch.enable_grad():
            x_0 = self.denoiser(x_t, t, condition).x0.flatten(1)
        s = (-log_snr).exp()
        if self.probes is None:
            trace = alpha * exact_trace(x_0, x_t) - self.reference.trace(s)
        else:
            trace = self._estimated(x_0, x_t, s, alpha, self.probes[:, rows])
        return Answer(x_0.detach().double(), trace)

    def _estimated(self, x_0: Tensor, x_t: Tensor, s: Tensor, alpha: Tensor, probes: Tensor) -> Tensor:
        """The mean over the probes of vᵀ J v, less vᵀ J_G v or its mean tr J_G."""
        products = transposed_products(x_0, x_t, probes.to(x_0.dtype))
        total = torch.zeros_like(s)
        for v, product in zip(probes, products, strict=True):
            explained = (v * self.reference.kept(v, s)).sum(1) if self.control else self.reference.trace(s)
            total += alpha * (v * product.flatten(1)).sum(1) - explained
        return total / len(probes)


def exact_trace(x_0: Float[Tensor, "b dim"], x_t: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
    """Σ_i ∂D_i/∂x_i, by a backward pass an element, as many at once as fit."""
    count, size = x_0.shape
    total = torch.zeros(count, dtype=torch.float64, device=x_0.device)
    chunk = max(1, min(size, _ROWS // count))
    for start in range(0, size, chunk):
        places = torch.arange(start, min(start + chunk, size), device=x_0.device)
        basis = torch.zeros(len(places), count, size, dtype=x_0.dtype, device=x_0.device)
        basis[torch.arange(len(places)), :, places] = 1.0
        products = transposed_products(x_0, x_t, basis).flatten(2).double()
        total += products[torch.arange(len(places)), :, places].sum(0)
    return total


def transposed_products(
    x_0: Float[Tensor, "b dim"], x_t: Float[Tensor, "b *d"], vectors: Float[Tensor, "k b dim"]
) -> Float[Tensor, "k b *d"]:
    """(∂D/∂x_t)ᵀ v for several v."""
    if len(vectors) > 1:
        try:
            return torch.autograd.grad(x_0, x_t, vectors, retain_graph=True, is_grads_batched=True)[0].detach()
        except (RuntimeError, NotImplementedError):  # an operation whose backward pass cannot be batched
            pass
    rows = [torch.autograd.grad(x_0, x_t, v, retain_graph=True)[0] for v in vectors]
    return torch.stack(rows).detach()


@final
@dataclass(frozen=True)
class Probing:
    """A kind of probes.

    Attributes:
        along_directions: v = Vᵀ r + (I − Vᵀ V) w with r and w of ±1; else v = w, along the data's axes.
        control: whether the Gaussian's answers are taken from theirs.
    """

    along_directions: bool = True
    control: bool = True

    def draw(self, reference: Reference, streams: SampleStreams, draw: int, count: int) -> Float[Tensor, "k b dim"]:
        """K probes a sample, E[v vᵀ] = I."""
        size, along = reference.dimension, len(reference.variances)
        signs = streams.uniform(draw, count * (size + along)).view(-1, count, size + along).sub(0.5).sign()
        w, r = signs.movedim(1, 0).split([size, along], dim=2)
        if not self.along_directions:
            return w.contiguous()
        directions = reference.directions
        return r @ directions if along == size else w + (r - w @ directions.mT) @ directions


PROBINGS = (Probing(), Probing(along_directions=False), Probing(along_directions=False, control=False))
"""The kinds that are tried."""


def least_variance(
    ask: Callable[[Probing, Tensor], Asker],
    x_0: Float[Tensor, "b dim"],
    noise: Float[Tensor, "b dim"],
    log_snrs: Float[Tensor, " m"],
    draw: Callable[[Probing, int], Float[Tensor, "k b dim"]],
) -> Probing:
    """The kind of probes whose answers vary least, summed over some noise levels.

    Args:
        ask: an asker for a kind and its probes.
        x_0: some data.
        noise: theirs.
        log_snrs: where they are asked.
        draw: probes of a kind, by number.
    """
    rows = torch.arange(len(x_0), device=x_0.device)
    spreads = []
    for probing in PROBINGS:
        answers = []
        for number in range(_TRIALS):
            asker = ask(probing, draw(probing, number))
            points = ((x_0 + (-log_snr).exp() * noise, log_snr.expand(len(x_0))) for log_snr in log_snrs)
            answers.append(torch.stack([asker(x_bar, level, rows).residual_trace for x_bar, level in points]))
        spreads.append(float(torch.stack(answers).std(0).mean()))
    return PROBINGS[spreads.index(min(spreads))]
