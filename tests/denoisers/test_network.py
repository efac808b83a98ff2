"""A denoiser around any network: what the network is given, and how its answer is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scorefield.denoisers import (
    PARAMETERISATIONS,
    Data,
    NetworkDenoiser,
    Noise,
    Parameterisation,
    Preconditioned,
    Velocity,
)
from scorefield.paths import EDM, VP, Path
from tests.worlds import EVERY_PATH, RANKS, dummy_network, normal

every_path = pytest.mark.parametrize("path", EVERY_PATH.values(), ids=EVERY_PATH)
every_rank = pytest.mark.parametrize("shape", RANKS.values(), ids=RANKS)


class Recorder(nn.Module):
    """A user's own module, which keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.given: list[tuple[Any, ...]] = []

    def forward(self, *given: Any) -> Tensor:
        self.given.append(given)
        return self.weight * given[0]


@every_path
@every_rank
@pytest.mark.parametrize("cls", PARAMETERISATIONS, ids=lambda cls: cls.__name__)
def test_answer_is_the_row_of_the_table(path: Path, shape: tuple[int, ...], cls: type[Parameterisation]) -> None:
    """D = skip x_t + out F(in x_t, label), for one time and for one a sample, at every rank (M6–M9)."""
    denoiser, x_t = NetworkDenoiser(dummy_network, path, cls()), normal(3, *shape)
    times = torch.tensor([0.03, 0.4, 0.9], dtype=torch.float64) * path.t_max
    together = denoiser(x_t, times).x0
    for k, t in enumerate(times.tolist()):
        row = cls().coefficients(path, t)
        output = dummy_network(row.input * x_t[k : k + 1], torch.tensor([row.label], dtype=torch.float64))
        wanted = row.skip * x_t[k : k + 1] + row.out * output
        assert torch.allclose(together[k : k + 1], wanted, rtol=1e-9, atol=1e-10)
        assert torch.allclose(denoiser(x_t[k : k + 1], t).x0, wanted, rtol=1e-9, atol=1e-10)


@every_rank
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.4, torch.tensor([0.2, 0.4], dtype=torch.float64)], ids=["float", "tensor"])
def test_shape_and_dtype_are_kept_and_the_input_not_touched(
    shape: tuple[int, ...], dtype: torch.dtype, t: float | Tensor
) -> None:
    """Float64 coefficients may not turn the batch into float64, nor an in-place step change the caller's batch."""
    x_t = normal(2, *shape).to(dtype)
    before = x_t.clone()
    for parameterisation in (Noise(), Data(), Preconditioned()):
        prediction = NetworkDenoiser(dummy_network, VP(), parameterisation)(x_t, t)
        for answer in (
            prediction.x0,
            prediction.noise,
            prediction.score,
            prediction.velocity,
            prediction.rectified_velocity,
        ):
            assert (answer.shape, answer.dtype) == (x_t.shape, dtype)
    assert torch.equal(x_t, before)


def test_network_is_given_the_label_and_the_condition_only_where_there_is_one() -> None:
    """A user's network of two arguments must not be handed a third, and one of three must get it."""
    network = Recorder()
    denoiser, x_t = NetworkDenoiser(network, EDM(), Velocity(label="time")), normal(2, 3)
    denoiser(x_t, 40.0)
    labels = torch.tensor([3, 1])
    denoiser(x_t, torch.tensor([8.0, 80.0], dtype=torch.float64), labels)
    assert [len(given) for given in network.given] == [2, 3]
    assert network.given[0][1].tolist() == [499.5, 499.5]
    assert network.given[1][1].tolist() == pytest.approx([99.9, 999.0])
    assert network.given[1][2] is labels


def test_prediction_remembers_its_question() -> None:
    """Noise and score are derived from x_t, t and path: another x_t there is another score (M6)."""
    x_t = normal(2, 3)
    prediction = NetworkDenoiser(dummy_network, VP(), Noise())(x_t, 0.3)
    assert prediction.x_t is x_t
    assert (prediction.t, prediction.path, prediction.variance_mix) == (0.3, VP(), None)
    assert torch.allclose(
        prediction.noise, dummy_network(x_t, x_t.new_full((2,), Noise().noise_label(VP(), 0.3))), rtol=1e-10
    )


@pytest.mark.parametrize("cls", PARAMETERISATIONS, ids=lambda cls: cls.__name__)
def test_gradient_reaches_the_network_and_the_input(cls: type[Parameterisation]) -> None:
    """A detach anywhere on the way would stop training, or guidance."""
    network, x_t = Recorder(), normal(2, 3).requires_grad_()
    NetworkDenoiser(network, VP(), cls())(x_t, 0.5).x0.square().sum().backward()
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs()) > 0.0
    assert x_t.grad is not None
    assert bool((x_t.grad != 0.0).all())
