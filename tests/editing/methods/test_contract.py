"""What holds for every method of joining a measurement to a model, on every path, at every rank."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from scorefield.denoisers import ClassifierFree, Clipped, Denoiser, NetworkDenoiser, Noise
from scorefield.editing.measurement import Measurement
from scorefield.editing.methods import DPS, METHODS, Particles, RePaint, Spectral, TwistedSMC
from scorefield.editing.operators import Dense, LinearOperator, Mask, Matrixless
from scorefield.editing.posterior import Method, Posterior
from scorefield.errors import UsageError
from scorefield.paths import VP, Path
from scorefield.records import from_plain, kind_of, to_plain
from scorefield.samplers import DDIM, Ancestral, LogSNR, Sampler
from scorefield.streams import SampleStreams
from tests.worlds import EVERY_PATH, RANKS, Shrinking, gaussian, normal, seeded

SHORT: dict[str, Method] = {cls.__name__: cls() for cls in METHODS} | {
    "RePaint": RePaint(jump=2, repeats=2),
    "DPS-repeated": DPS(jump=2, repeats=2),
    "TwistedSMC": TwistedSMC(particles=3),
    "TwistedSMC-pigdm": TwistedSMC(particles=4, proposal="pigdm", at_once=5),
}
every_method = pytest.mark.parametrize("method", SHORT.values(), ids=SHORT)
every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)
either_noise = pytest.mark.parametrize("noise", [0.0, 0.2])


def projection(shape: tuple[int, ...]) -> LinearOperator:
    """Two numbers of each x."""
    return Dense(normal(2, math.prod(shape), seed=5), shape)


def measurement(shape: tuple[int, ...], noise: float = 0.2) -> Measurement:
    """What all samples share."""
    return Measurement(projection(shape), normal(1, 2, seed=6), noise)


def drawn(method: Method, denoiser: Denoiser, x: Tensor, known: Measurement, **options: Any) -> Tensor:
    """Samples by the method's own sampler over three steps."""
    options.setdefault("generator", seeded(1))
    return method.sampler(Ancestral(steps=3)).sample(Posterior(denoiser, known, method), x, **options)


@every_method
@either_noise
@pytest.mark.parametrize(
    ("path", "shape"),
    [*((path, (4,)) for path in EVERY_PATH.values()), *((VP(), shape) for shape in RANKS.values())],
    ids=[*EVERY_PATH, *RANKS],
)
def test_shape_and_dtype_are_kept_and_nothing_is_mutated(
    path: Path, shape: tuple[int, ...], noise: float, method: Method
) -> None:
    """A float64 singular value that leaks, a division by α = 0, a gradient left on the input would show here."""
    for dtype in (torch.float32, torch.float64):
        x_T, known = path.prior_std * normal(3, *shape).to(dtype), measurement(shape, noise)
        before, y = x_T.clone(), known.y.clone()
        with torch.no_grad():
            answer = Posterior(Shrinking(path), known, method)(x_T, path.t_max)
            samples = drawn(method, Shrinking(path), x_T, known)
        assert torch.equal(x_T, before)
        assert torch.equal(known.y, y)
        assert not x_T.requires_grad
        assert answer.x_t is x_T
        for found in (samples, answer.x0):
            assert (found.shape, found.dtype, found.requires_grad) == (x_T.shape, dtype, False)
            assert bool(found.isfinite().all())


@every_method
@every_rank
def test_sample_does_not_depend_on_its_batch(shape: tuple[int, ...], method: Method) -> None:
    """A norm, a solver's stop or a resampling over the batch would tie a picture to its neighbours."""
    x_T = SampleStreams.numbered(9, 0, 5).normal(torch.zeros(5, *shape, dtype=torch.float64), 0)
    y = normal(5, 2, seed=7)
    together = drawn(
        method, Shrinking(VP()), x_T, Measurement(projection(shape), y, 0.1), generator=SampleStreams.numbered(9, 0, 5)
    )
    alone = drawn(
        method,
        Shrinking(VP()),
        x_T[3:4],
        Measurement(projection(shape), y[3:4], 0.1),
        generator=SampleStreams.numbered(9, 3, 1),
    )
    assert torch.allclose(together[3:4], alone, rtol=1e-12, atol=1e-14)


@every_method
@every_path
def test_same_generator_same_bits(path: Path, method: Method) -> None:
    """A draw from the global generator would make two runs differ."""
    x = path.prior_std * normal(3, 4)
    one, other = (drawn(method, Shrinking(path), x, measurement((4,))) for _ in range(2))
    assert torch.equal(one, other)


@every_method
def test_times_one_a_sample_are_taken(method: Method) -> None:
    """An answer at a tensor of times is that of each time by itself."""
    posterior, x, times = Posterior(Shrinking(VP()), measurement((3,)), method), normal(2, 3), torch.tensor([0.3, 0.9])
    both = posterior(x, times.double()).x0
    each = torch.cat([posterior(x[k : k + 1], float(times[k])).x0 for k in range(2)])
    assert torch.allclose(both, each, atol=1e-7)


@every_method
def test_condition_is_handed_on(method: Method) -> None:
    """Without the label a restored picture would be of any class."""
    denoiser, labels = Shrinking(VP()), torch.tensor([1, 0, 1])
    drawn(method, denoiser, normal(3, 4), measurement((4,)), condition=labels)
    assert denoiser.conditions
    for told in denoiser.conditions:
        assert set(told.tolist()) <= {0, 1}
    if not isinstance(method, TwistedSMC):
        assert all(told is labels for told in denoiser.conditions)


@every_method
def test_evaluations_are_counted_right(method: Method) -> None:
    """The price that the benchmark compares; particles count each."""
    denoiser = Shrinking(VP())
    sampler = method.sampler(DDIM(steps=4, eta=1.0))
    *_, last = sampler.trajectory(
        Posterior(denoiser, measurement((3,)), method), normal(2, 3), generator=seeded(), end=0.0
    )
    assert last.evaluations == sampler.evaluations()
    assert torch.equal(last.x, last.x0)
    if not isinstance(method, TwistedSMC):
        assert last.evaluations == len(denoiser.asked)


@every_method
@pytest.mark.parametrize("wrapper", [Clipped, lambda denoiser: ClassifierFree(denoiser, 9, 2.0)])
def test_other_wrappers_are_differentiated_through(wrapper: Any, method: Method) -> None:
    """Guided and clipped models are restored as others are."""
    network = NetworkDenoiser(lambda x, label, *rest: torch.tanh(x) * 0.3, VP(), Noise(label="time"))
    samples = drawn(method, wrapper(network), normal(3, 4), measurement((4,)), condition=torch.tensor([1, 0, 1]))
    assert bool(samples.isfinite().all())


@every_method
def test_a_denoiser_that_answers_always_the_same_is_none_to_differentiate(method: Method) -> None:
    """J = 0 is a Jacobian too."""
    constant = NetworkDenoiser(lambda x, label: torch.zeros_like(x), VP(), Noise(label="time"))
    frozen = replace(constant, parameterisation=replace(constant.parameterisation))
    assert bool(drawn(method, frozen, normal(2, 4), measurement((4,))).isfinite().all())


@every_method
def test_methods_are_plain_data_and_back(method: Method) -> None:
    """The command line and files know a method by its kind and fields."""
    kinds: Any = {Method: METHODS}
    assert from_plain(Method, to_plain(method), kinds) == method  # type: ignore[type-abstract]


def test_kinds_are_the_names_of_the_command_line() -> None:
    """The names people type."""
    names = {"replacement", "repaint", "dps", "pigdm", "momentmatching", "ddrm", "diffpir", "twistedsmc"}
    assert {kind_of(cls) for cls in METHODS} == names


def test_only_the_weighed_method_claims_to_be_exact() -> None:
    """The others' bias stays, however many the steps."""
    assert [cls for cls in METHODS if cls.is_exact] == [TwistedSMC]


@every_method
def test_measurement_without_noise_is_met(method: Method) -> None:
    """Where values are pasted, they are in the end what they were; where a gradient pulls, the pull is towards them."""
    world = gaussian(VP(), (0.1, -0.2, 0.3, 0.0), (0.3, 0.2, 0.1, 0.4))
    keep = torch.tensor([True, False, True, False])
    known = Measurement(Mask(keep), torch.tensor([[0.4, 0.0, 0.1, 0.0]]), 0.0)
    sampler = method.sampler(Ancestral(steps=30, grid=LogSNR()))
    x = sampler.sample(Posterior(world, known, method), normal(6, 4), generator=seeded())
    apart = known.residual(x).abs().max()
    assert apart < (0.3 if method.differentiates and not method.is_exact else 1e-12)


@every_method
def test_operators_without_decomposition_are_taken_or_refused_with_the_fix(method: Method) -> None:
    """Conjugate gradients stand in for the decomposition; for DDRM, and for noise in RePaint, they cannot."""
    dense = projection((3,))
    known = Measurement(Matrixless(dense, dense.adjoint, (3,), (2,)), normal(1, 2, seed=6), 0.2)
    if kind_of(type(method)) in ("ddrm", "repaint"):
        with pytest.raises(UsageError, match="use moment matching or ΠGDM, or give A as Dense"):
            drawn(method, Shrinking(VP()), normal(2, 3), known)
        return
    found = drawn(method, Shrinking(VP()), normal(2, 3), known)
    if isinstance(method, DPS) and method.repeats > 1:  # it meets noisy measurements again only by their decomposition
        assert found.isfinite().all()
        return
    assert torch.allclose(found, drawn(method, Shrinking(VP()), normal(2, 3), measurement((3,))), atol=1e-4)


@pytest.mark.parametrize("sampler", [Spectral(steps=3), Particles(steps=3)], ids=repr)
def test_a_denoiser_without_measurement_is_refused_with_the_fix(sampler: Sampler) -> None:
    """A walk that conditions on nothing would return samples of the prior."""
    with pytest.raises(UsageError, match=r"wrap it: Posterior\(denoiser, measurement, method\)"):
        sampler.sample(Shrinking(VP()), normal(2, 3), generator=seeded())


def test_particles_have_their_samples_label_and_measurement_outside_of_a_test_run() -> None:
    """Annotations are placeholders there: who asks `isinstance` of one of them finds no tensor, and no label is repeated."""
    code = """
        import torch, scorefield as sf
        from scorefield.editing.measurement import Measurement
        from scorefield.editing.methods import TwistedSMC
        from scorefield.editing.operators import Separable
        from scorefield.editing.posterior import Posterior
        def network(x, label, condition):
            assert condition.tolist() == [1, 1, 1, 2, 2, 2], condition
            return x * condition[:, None]
        denoiser = sf.NetworkDenoiser(network, sf.VP(), sf.Noise(label="time"))
        known, method = Measurement(Separable.identity((4,)), torch.randn(2, 4), 0.3), TwistedSMC(particles=3)
        sampler = method.sampler(sf.Ancestral(steps=2))
        generator = torch.Generator().manual_seed(0)
        sampler.sample(Posterior(denoiser, known, method), torch.randn(2, 4), generator=generator, condition=torch.tensor([1, 2]))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=100)


def test_particles_need_a_method_with_a_twist() -> None:
    """Replacement has no p̃ whose values could be compared."""
    posterior = Posterior(Shrinking(VP()), measurement((3,)), SHORT["Replacement"])
    with pytest.raises(UsageError, match="use TwistedSMC, PiGDM or MomentMatching"):
        Particles(steps=3).sample(posterior, normal(2, 3), generator=seeded())


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("dps", {"zeta": 0.0}, "positive zeta"),
        ("dps", {"data_std": -1.0}, "positive data_std"),
        ("dps", {"repeats": 0}, "repeats ≥ 1"),
        ("pigdm", {"data_std": 0.0}, "positive data_std"),
        ("momentmatching", {"iterations": 0}, "at least 1 iteration"),
        ("ddrm", {"eta": 1.5}, "eta from 0 to 1"),
        ("diffpir", {"weight": 0.0}, "positive weight"),
        ("diffpir", {"zeta": -0.1}, "from 0 to 1"),
        ("repaint", {"repeats": 0}, "repeats ≥ 1"),
        ("twistedsmc", {"particles": 0}, "particles ≥ 1"),
        ("twistedsmc", {"proposal": "pidgm"}, "did you mean 'pigdm'"),
        ("twistedsmc", {"iterations": 0}, "at least 1 iteration"),
    ],
)
def test_impossible_settings_are_refused(name: str, settings: dict[str, Any], said: str) -> None:
    """At construction, in words."""
    with pytest.raises(UsageError, match=said):
        from_plain(Method, {"kind": name, **settings}, {Method: METHODS})  # type: ignore[type-abstract]
