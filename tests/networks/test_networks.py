"""Networks keep shapes, start at zero, treat samples apart, and use everything they are given."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from scorefield.errors import UsageError
from scorefield.networks import NETWORKS, MLPSpec, UNetSpec, default_classifier, default_network
from scorefield.networks.layers import with_waves

SMALL = UNetSpec(widths=(16, 32), depths=(1, 1), head_width=16, embedding=16)
SHAPES = [(2, 9), (1, 8, 8), (3, 7, 12), (5, 1, 3), (1, 4, 6, 5), (2,), (64,)]


def build(shape: tuple[int, ...], out_channels: int | None = None, classes: int = 0, fold: int = 2) -> nn.Module:
    torch.manual_seed(0)
    if len(shape) == 1:
        return MLPSpec(width=16, depth=2, embedding=16).build(shape, out_channels, classes)
    spec = UNetSpec(widths=(16, 32), depths=(1, 1), head_width=16, embedding=16, fold=fold)
    return spec.build(shape, out_channels, classes)


def perturbed(network: nn.Module) -> nn.Module:
    """The network with its zeroed layers moved, so that everything it is given can matter."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("out_channels", [None, 4])
def test_result_has_the_shape_asked_for(shape: tuple[int, ...], out_channels: int | None) -> None:
    """A crop, a fold or a resampling that loses a position of an odd side would show here."""
    x = torch.randn(3, *shape)
    result = build(shape, out_channels)(x, torch.randn(3))
    assert result.shape == (3, out_channels or shape[0], *shape[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_starts_as_the_zero_function(shape: tuple[int, ...]) -> None:
    """Preconditioning around a network makes the first denoiser the best linear one only if the network is zero."""
    assert not build(shape)(torch.randn(2, *shape), torch.randn(2)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", [1, 2, 3])
def test_a_sample_does_not_depend_on_its_batch(shape: tuple[int, ...], cell: int) -> None:
    """Batch statistics or a mixed-up reshape would leak one sample into another."""
    network = perturbed(build(shape, classes=3, fold=cell)).double()
    x, noise = torch.randn(4, *shape, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    together = network(x, noise, labels)
    alone = torch.cat([network(x[k : k + 1], noise[k : k + 1], labels[k : k + 1]) for k in range(4)])
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)
    assert together.dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 9), (3, 7, 12), (1, 4, 6, 5), (8,)])
def test_gradient_reaches_every_parameter(shape: tuple[int, ...]) -> None:
    """A layer that is built and not used, or detached, would never learn."""
    network = perturbed(build(shape, classes=3))
    network(torch.randn(4, *shape), torch.randn(4), torch.tensor([0, 1, 2, 3])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [(2, 9), (3, 7, 12), (1, 4, 6, 5), (8,)])
def test_noise_level_class_and_every_position_matter(shape: tuple[int, ...]) -> None:
    """An embedding that is computed and dropped would leave the result unchanged."""
    network = perturbed(build(shape, classes=3))
    x, noise, labels = torch.randn(2, *shape), torch.randn(2), torch.tensor([0, 1])
    result = network(x, noise, labels)
    for other in (network(x, noise + 0.1, labels), network(x, noise, labels + 1), network(x.flip(-1), noise, labels)):
        assert (other - result).abs().max() > 1e-4


def test_no_labels_means_the_label_past_the_last() -> None:
    """Sampling without a class must use the embedding that label drop-out trained."""
    network, x, noise = perturbed(build((1, 8, 8), classes=3)), torch.randn(2, 1, 8, 8), torch.randn(2)
    assert torch.equal(network(x, noise), network(x, noise, torch.tensor([3, 3])))


def test_attention_sees_the_whole_sample() -> None:
    """Without attention a position of the result depends on a window only."""
    reach = {}
    for attention in (0, 1):
        spec = UNetSpec(widths=(16, 32), depths=(1, 1), fold=1, attention=attention, head_width=16, embedding=16)
        torch.manual_seed(0)
        network = perturbed(spec.build((1, 64))).double()
        x = torch.randn(1, 1, 64, dtype=torch.float64, requires_grad=True)
        for module in network.modules():  # statistics of a normalisation see the whole sample too: take them out
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda value: value  # type: ignore[method-assign, assignment]
        network(x, torch.zeros(1, dtype=torch.float64))[0, 0, 0].backward()
        assert x.grad is not None
        reach[attention] = x.grad[0, 0, -1].abs().item()
    assert reach[0] == 0 < reach[1]


def test_other_sizes_than_the_one_built_for_are_taken() -> None:
    """Nothing but channels and rank is bound, so a network can be moved to larger data."""
    assert build((1, 8, 8))(torch.randn(2, 1, 13, 6), torch.randn(2)).shape == (2, 1, 13, 6)


def test_bfloat16_agrees_with_float32_roughly() -> None:
    """Mixed precision must run through every layer, attention included."""
    network, x, noise = perturbed(build((1, 8, 8))), torch.randn(2, 1, 8, 8), torch.randn(2)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x, noise)
    assert torch.allclose(low.float(), network(x, noise), rtol=0.1, atol=0.3)


def test_waves_tell_apart_what_differs_by_less_than_a_period() -> None:
    """Sine and cosine come after the input, one pair a period, and a whole period changes nothing but the input itself."""
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(1, 1, 8)
    waves = with_waves(x, (0.5, 0.25))
    expected = [x, *(f(2 * torch.pi * x / p) for p in (0.5, 0.25) for f in (torch.sin, torch.cos))]
    assert torch.allclose(waves, torch.cat(expected, dim=1), atol=1e-14)
    assert torch.allclose(with_waves(x + 0.5, (0.5, 0.25))[:, 1:], waves[:, 1:], atol=1e-12)
    spec = UNetSpec(widths=(16,), depths=(1,), head_width=16, embedding=16, periods=(0.5, 0.25))
    assert perturbed(spec.build((3, 5, 7)))(torch.randn(2, 3, 5, 7), torch.randn(2)).shape == (2, 3, 5, 7)


def test_dropout_acts_in_training_only() -> None:
    """A draw must not depend on dropout's random numbers."""
    network = perturbed(UNetSpec(widths=(16,), depths=(1,), head_width=16, embedding=16, dropout=0.5).build((1, 8, 8)))
    x, noise = torch.randn(1, 1, 8, 8), torch.randn(1)
    assert not torch.equal(network(x, noise), network(x, noise))
    network.eval()
    assert torch.equal(network(x, noise), network(x, noise))


@pytest.mark.parametrize(
    "shape",
    [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 17, 5), (2, 500), (1, 16, 16, 16), (2,), (64,), (1, 1, 1)],
)
def test_default_network_fits_every_shape(shape: tuple[int, ...]) -> None:
    """The default must build for any data without a setting, at a size that trains in minutes."""
    network = default_network(shape).build(shape, None, 3)
    assert sum(p.numel() for p in network.parameters()) < 9e6
    with torch.no_grad():
        assert network(torch.randn(1, *shape), torch.zeros(1)).shape == (1, *shape)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (16, 0)}, "widths"),
        ({"depths": (1,)}, "depths"),
        ({"fold": 0}, "fold"),
        ({"attention": 3}, "attention"),
        ({"head_width": 48}, "head_width"),
        ({"embedding": 7}, "embedding"),
        ({"dropout": 1.0}, "dropout"),
        ({"periods": (0.0,)}, "periods"),
        ({"periods": (1.0,) * 65}, "periods"),
    ],
)
def test_impossible_values_are_refused_by_name(change: dict[str, object], names: str) -> None:
    """A wrong setting must be named before anything is built."""
    values: dict[str, object] = {"widths": (16, 32), "depths": (1, 1), "head_width": 16, **change}
    with pytest.raises(UsageError, match=names):
        UNetSpec(**values)  # type: ignore[arg-type]


def test_shapes_a_network_cannot_take_are_refused() -> None:
    """The message must name the network to use instead."""
    with pytest.raises(UsageError, match="MLP"):
        SMALL.build((4,))
    with pytest.raises(UsageError, match="U-Net"):
        MLPSpec().build((1, 8, 8))
    with pytest.raises(UsageError, match="classes"):
        SMALL.build((1, 8, 8), None, -1)
    with pytest.raises(UsageError, match="samples are"):
        default_network((1, 2, 3, 4, 5))


def test_specs_are_told_apart_by_kind_and_need_no_torch() -> None:
    """A configuration is checked, and help is printed, before torch is imported."""
    assert [spec.kind for spec in NETWORKS] == ["unet", "mlp"]
    code = "import sys, scorefield.networks as n; n.default_network((1, 8, 8)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ── classifiers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def classifier(shape: tuple[int, ...], classes: int = 4, fold: int = 2) -> nn.Module:
    """A small classifier of samples of a shape."""
    torch.manual_seed(0)
    if len(shape) == 1:
        return MLPSpec(width=16, depth=2, embedding=16).build_classifier(shape, classes)
    spec = UNetSpec(widths=(16, 32), depths=(1, 1), head_width=16, embedding=16, fold=fold)
    return spec.build_classifier(shape, classes)


@pytest.mark.parametrize("shape", SHAPES)
def test_classifiers_begin_undecided_and_treat_samples_apart(shape: tuple[int, ...]) -> None:
    """A start that prefers a class would be a gradient from nowhere; a statistic over the batch would mix samples."""
    network = classifier(shape)
    assert torch.equal(network(torch.randn(3, *shape), torch.randn(3)), torch.zeros(3, 4))
    network = perturbed(network).double()
    x, noise = torch.randn(3, *shape, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    alone = torch.cat([network(x[k : k + 1], noise[k : k + 1]) for k in range(3)])
    assert torch.allclose(network(x, noise), alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 9), (3, 7, 12), (1, 4, 6, 5), (8,)])
def test_classifiers_use_all_that_they_have(shape: tuple[int, ...]) -> None:
    """A layer that is built and not used never learns; a noise level that is not heard gives one posterior for all."""
    network, x, noise = perturbed(classifier(shape)), torch.randn(4, *shape), torch.randn(4)
    result = network(x, noise)
    assert (network(x, noise + 0.1) - result).abs().max() > 1e-4
    result.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [*SHAPES, (3, 64, 64), (1, 1, 1)])
def test_there_is_a_classifier_for_data_of_any_shape(shape: tuple[int, ...]) -> None:
    """What `train-classifier` builds without being told: a side too short for its levels would end in an empty cell."""
    network = default_classifier(shape).build_classifier(shape, 3)
    assert network(torch.randn(2, *shape), torch.randn(2)).shape == (2, 3)


def test_classifiers_of_nothing_are_refused() -> None:
    """One class is no question, and a wrong rank no sample."""
    for spec, shape in ((UNetSpec(), (1, 8, 8)), (MLPSpec(), (2,))):
        with pytest.raises(UsageError, match="at least two classes"):
            spec.build_classifier(shape, 1)
    with pytest.raises(UsageError, match="use a U-Net"):
        MLPSpec().build_classifier((1, 8, 8), 2)
    with pytest.raises(UsageError, match="use an MLP"):
        UNetSpec().build_classifier((2,), 2)
