"""Decoders are laws: they sum to one whatever the noise, and say what their formulas say."""

from __future__ import annotations

import math

import pytest
import torch

from scorefield.denoisers import Prediction
from scorefield.likelihood.decoders import Decoder, Density, Discretised, Lattice, candidates
from scorefield.paths import EDM, VP, Path
from tests.worlds import float64, normal


def answer(path: Path, s: float, centres: torch.Tensor) -> Prediction:
    """An answer whose D and z/α differ."""
    t = path.time_of(-math.log(s))
    return Prediction(centres, path.alpha(t) * (centres + 0.4 * s), t, path)


@pytest.mark.parametrize("s", [0.003, 0.02, 0.3, 5.0])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_probabilities_of_all_levels_sum_to_one(levels: int, s: float) -> None:
    """At every noise and for D inside, at the edge of and outside the data's range (M18)."""
    centres = float64([[-1.2], [-1.0], [-0.37], [0.0], [0.998], [1.4]])
    for path in (EDM(), VP()):
        prediction = answer(path, s, centres)
        for decoder in candidates(levels):
            masses = [
                decoder.log_probability(torch.full_like(centres, 2.0 * k / (levels - 1) - 1.0), prediction).exp()
                for k in range(levels)
            ]
            assert torch.allclose(torch.stack(masses).sum(0), torch.ones(6).double(), rtol=0.0, atol=1e-6)


def test_vdms_lattice_is_a_softmax_over_the_levels() -> None:
    """log softmax_k(−(z/α − x_k)² SNR/2), the elements summed (Kingma et al. 2021, eq. 8)."""
    path, s, numbers = VP(), 0.2, torch.tensor([[0, 3, 16], [7, 8, 9]])
    values = torch.linspace(-1.0, 1.0, 17).double()
    prediction = answer(path, s, 0.5 * normal(2, 3))
    z = prediction.x_t / path.alpha(prediction.t)
    wanted = (-((z[..., None] - values) ** 2) / (2.0 * s**2)).log_softmax(-1).gather(-1, numbers[..., None]).sum((1, 2))
    got = Lattice(17, about_denoised=False).log_probability(values[numbers], prediction)
    assert torch.allclose(got, wanted)


def test_ratio_is_the_variance_in_units_of_the_noises() -> None:
    """v = ratio · σ²/α² for each kind."""
    path, s, x = EDM(), 0.3, float64([[0.1], [-0.4]])
    for kind in (Density, lambda ratio: Discretised(256, ratio), lambda ratio: Lattice(256, ratio)):
        wide = kind(4.0).log_probability(x, answer(path, s, 0.5 * x))
        noisy = kind(1.0).log_probability(x, answer(path, 2.0 * s, 0.5 * x))
        assert torch.allclose(wide, noisy)


def test_density_is_the_normals() -> None:
    """A lost constant would move every bound of floats."""
    x, prediction = normal(3, 2), answer(EDM(), 0.5, normal(3, 2, seed=1))
    wanted = torch.distributions.Normal(prediction.x0, 0.5).log_prob(x).sum(1)
    assert torch.allclose(Density().log_probability(x, prediction), wanted)


def test_floats_are_decoded_by_densities_and_integers_by_masses() -> None:
    """The two must never be mixed up: one has units."""

    def kinds(decoders: list[Decoder]) -> set[type]:
        return {type(decoder) for decoder in decoders}

    assert kinds(candidates(None)) == {Density}
    assert kinds(candidates(256)) == {Discretised, Lattice}
