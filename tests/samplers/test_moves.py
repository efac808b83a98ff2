"""Langevin's move with its Metropolis test inside the samplers that walk down the levels: at every path and rank, counted and refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import Energy, EnergyDenoiser, NetworkEnergy, Prediction
from scorefield.errors import UsageError
from scorefield.paths import EDM, VE, VP, Path, Rectified
from scorefield.samplers import AnnealedLangevin, LogSNR, PredictorCorrector, Sampler
from scorefield.samplers.moves import Place, chain
from scorefield.streams import SampleStreams
from tests.worlds import EVERY_PATH, RANKS, Shrinking, dummy_network, gaussian, mixture, normal, seeded

ADJUSTED: dict[str, Sampler] = {
    "ladder": AnnealedLangevin(4, inner_steps=3, metropolis=True),
    "ladder-noisy": AnnealedLangevin(4, inner_steps=3, denoise=False, metropolis=True),
    "corrector": PredictorCorrector(4, corrector="metropolis", corrector_steps=3),
    "corrector-alone": PredictorCorrector(4, predictor="none", corrector="metropolis", corrector_steps=3),
}
every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_sampler = pytest.mark.parametrize("sampler", ADJUSTED.values(), ids=ADJUSTED)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)


@dataclass(frozen=True, eq=False)
class Counting(EnergyDenoiser):
    """A network's energy that counts what it is asked, and the conditions it is asked with."""

    path: Path
    asked: list[Any]

    def __call__(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Prediction:
        """D, and remember."""
        self.asked.append(condition)
        return NetworkEnergy(dummy_network, self.path, Energy())(x_t, t)

    def energy(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """E, and remember."""
        self.asked.append(condition)
        return NetworkEnergy(dummy_network, self.path, Energy()).energy(x_t, t)


@every_path
@every_sampler
def test_questions_are_counted_and_carry_the_condition(path: Path, sampler: Sampler) -> None:
    """(M33, M39) Energies are questions too; one without the label would test a move against another density."""
    denoiser, labels = Counting(path, []), torch.tensor([1, 0, 2])
    options: dict[str, Any] = {"generator": seeded(), "condition": labels}
    states = list(sampler.trajectory(denoiser, path.prior_std * normal(3, 2), **options))
    assert len(denoiser.asked) == states[-1].evaluations == sampler.evaluations()
    assert all(condition is labels for condition in denoiser.asked)


@every_path
@every_sampler
def test_any_path_is_walked_to_data(path: Path, sampler: Sampler) -> None:
    """(M33, M39) Where α = 0, or a chain's steps are the only times, every state is finite and the last is D, or the last level."""
    x_T = (path.prior_std * normal(3, 2)).float()
    before = x_T.clone()
    states = list(sampler.trajectory(NetworkEnergy(dummy_network, path, Energy()), x_T, generator=seeded()))
    assert torch.equal(x_T, before)
    assert all(bool(state.x.isfinite().all()) and state.x.dtype == torch.float32 for state in states)
    assert states[-1].t == (path.t_min if sampler is ADJUSTED["ladder-noisy"] else 0.0)
    assert states[-1].info is not None


@every_rank
@every_sampler
def test_a_sample_does_not_depend_on_its_batch(shape: tuple[int, ...], sampler: Sampler) -> None:
    """(M32) A sample is accepted or refused by its own energy and its own uniform number."""
    denoiser = NetworkEnergy(dummy_network, VP(), Energy())
    x_T = SampleStreams.numbered(9, 0, 5).normal(torch.zeros(5, *shape, dtype=torch.float64), 0)
    together = sampler.sample(denoiser, x_T, generator=SampleStreams.numbered(9, 0, 5))
    alone = sampler.sample(denoiser, x_T[3:4], generator=SampleStreams.numbered(9, 3, 1))
    assert torch.allclose(together[3:4], alone, rtol=1e-12)


@pytest.mark.parametrize("path", [VP(), EDM(), Rectified()], ids=lambda path: type(path).__name__)
def test_a_chain_leaves_its_law_alone(path: Path) -> None:
    """(M32) u = 1.6 at σ = 2 α: unadjusted, the variance would be 4.8 times too large; adjusted, exact draws stay exact."""
    t = path.time_of(-math.log(2.0))
    world, count = gaussian(path, (0.3, -0.7), (0.05, 0.05)), 4_000
    start = path.perturb(world.draw(count, seeded(1)), t, normal(count, 2, seed=2))
    streams = SampleStreams.numbered(3, 0, count)
    numbers = iter(range(1, 1_000))
    *_, last = chain(
        world, Place.of(world, start, t, None), t, 1.6, 30, lambda x: streams.normal(x, next(numbers)), None
    )
    variance = path.alpha(t) ** 2 * 0.05 + path.sigma(t) ** 2
    off = (last.x - path.alpha(t) * world.means[0]).square().mean(0) / variance - 1.0
    assert float(off.abs().max()) < 4.0 * math.sqrt(2.0 / count)
    assert 0.2 < float(torch.as_tensor(last.acceptance).mean()) < 0.999


def test_a_refused_move_stays_at_its_place() -> None:
    """(M32) x, D, E and the share of one sample do not change with another's acceptance."""
    world, t = mixture(VE()), 0.6
    streams, numbers = SampleStreams.numbered(4, 0, 50), iter(range(1, 100))
    before = Place.of(world, 0.5 * normal(50, 2), t, None)
    for place in chain(world, before, t, 1.95, 8, lambda x: streams.normal(x, next(numbers)), None):
        assert place.accepted is not None
        assert torch.equal((place.x == before.x).all(1), ~place.accepted)
        assert torch.allclose(place.energy, world.energy(place.x, t), rtol=1e-12)
        assert torch.allclose(place.x_0, world(place.x, t).x0, rtol=1e-12)
        before = place
    assert before.moves == 8
    assert 0.0 < float(torch.as_tensor(before.acceptance).mean()) < 1.0


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        (AnnealedLangevin(metropolis=True), r"Shrinking has none; set metropolis=false, .*parameterisation=energy"),
        (PredictorCorrector(corrector="metropolis"), r"Shrinking has none; set corrector='annealed-langevin'"),
    ],
)
def test_a_denoiser_without_energy_is_refused_with_the_fix(sampler: Sampler, said: str) -> None:
    """(M33, M39) Accepting every move instead would be another sampler under this one's name."""
    with pytest.raises(UsageError, match=said):
        sampler.sample(Shrinking(VP()), normal(2, 3), generator=seeded())


def test_the_ladders_first_level_is_the_start() -> None:
    """(M33) Levels are the same with the test and without, and each begins with an acceptance of its own."""
    path, walked = VE(), {}
    for metropolis in (False, True):
        sampler = AnnealedLangevin(5, LogSNR(), inner_steps=4, metropolis=metropolis)
        walked[metropolis] = list(sampler.trajectory(mixture(path), path.prior_std * normal(3, 2), generator=seeded()))
    assert [state.t for state in walked[True]] == [state.t for state in walked[False]]
    for state in walked[True][:-1:4]:
        assert state.info is not None
        assert torch.equal(state.info["acceptance"], state.info["accepted"].double())
