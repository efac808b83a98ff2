"""Features: deterministic, of any shape, and cached only for the very data they were made for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scorefield.errors import RefusedFileError, UsageError
from scorefield.evaluation.distances import kernel_distance
from scorefield.evaluation.features import Classifier, Coordinates, fit_features, pack, unpack

SHAPES = [(1, 8, 8), (3, 9, 5), (2, 17), (1, 4, 5, 6)]


def stripes(count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """8 × 8 images of two classes: light above or light to the left, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = torch.zeros(count, 1, 8, 8)
    images[labels == 0, :, :4] = 1
    images[labels == 1, :, :, :4] = 1
    noise = 0.5 * torch.randn(images.shape, generator=generator)
    return ((images + noise).clamp(-1, 2) * 60 + 70).to(torch.uint8), labels


def test_the_classifier_learns_and_generalises():
    """Half of each image is noise with s = ½: nearly all of new data must be right."""
    x, labels = stripes(256)
    new, new_labels = stripes(200, seed=1)
    classifier = fit_features(x, labels, epochs=8)
    assert isinstance(classifier, Classifier)
    assert classifier.accuracy(new, new_labels) > 0.97


@pytest.mark.parametrize("labelled", [True, False])
def test_the_same_data_and_seed_give_the_same_bits_and_leave_the_global_generator_alone(labelled: bool):
    x, labels = stripes(64)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, other = (fit_features(x, labels if labelled else None, epochs=1, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.features(x), two.features(x))
    assert not torch.equal(one.features(x), other.features(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [None, 3])
def test_data_of_every_shape_have_features(shape: tuple[int, ...], classes: int | None):
    x = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % classes if classes else None
    features = fit_features(x, labels, epochs=1).features(x[:7])
    assert features.shape == (7, 128)
    assert torch.isfinite(features).all()
    assert features.std(0).max() > 0.1


def test_random_features_tell_data_from_noise_with_the_same_pixels():
    """Shuffling the pixels of an image keeps its histogram; convolutions must see the difference."""
    x, _ = stripes(300)
    shuffled = x.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(0))].reshape(x.shape)
    extractor = fit_features(x[:200])
    seen = kernel_distance(extractor.features(shuffled), extractor.features(x))
    assert seen.value > 5 * seen.standard_error


def test_points_are_their_own_features_in_units_of_their_spread():
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.01])
    x = torch.cat([x, torch.ones(100, 1)], dim=1)
    extractor = fit_features(x)
    assert isinstance(extractor, Coordinates)
    torch.testing.assert_close(extractor.features(x)[:, :2].std(0), torch.ones(2).double())
    torch.testing.assert_close(extractor.features(x)[:, 2], torch.ones(100).double())


def test_a_packed_classifier_comes_back_the_same():
    x, labels = stripes(64)
    classifier = fit_features(x, labels, epochs=1)
    assert isinstance(classifier, Classifier)
    again = unpack(pack(classifier))
    torch.testing.assert_close(again.features(x), classifier.features(x))


@pytest.mark.parametrize("damage", [lambda d: d[:50], lambda d: b"", lambda d: d[:-1], lambda d: b"\xff" * 40])
def test_a_damaged_file_is_refused(damage):
    x, labels = stripes(64)
    classifier = fit_features(x, labels, epochs=1)
    assert isinstance(classifier, Classifier)
    with pytest.raises(RefusedFileError, match="delete it"):
        unpack(damage(pack(classifier)))


def test_the_cache_is_used_for_the_same_data_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    x, labels = stripes(64)
    cache = tmp_path / "new" / "features.safetensors"
    first = fit_features(x, labels, epochs=1, cache=cache).features(x)
    trained = []
    monkeypatch.setattr("scorefield.evaluation.features._train", lambda *_: trained.append(1))
    torch.testing.assert_close(fit_features(x, labels, epochs=1, cache=cache).features(x), first)
    assert not trained
    fit_features(x, 1 - labels, epochs=1, cache=cache)
    assert trained == [1]


def test_a_damaged_cache_is_made_again(tmp_path: Path):
    x, labels = stripes(64)
    cache = tmp_path / "features.safetensors"
    cache.write_bytes(b"rubbish")
    fit_features(x, labels, epochs=1, cache=cache)
    assert isinstance(unpack(cache.read_bytes()), Classifier)


@pytest.mark.parametrize(
    ("x", "labels", "words"),
    [
        (torch.zeros(0, 1, 8, 8), None, "at least one example"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.long), "4 numbers"),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, -1, 0]), "least -1"),
    ],
)
def test_impossible_data_are_refused(x: Tensor, labels: Tensor | None, words: str):
    with pytest.raises(UsageError, match=words):
        fit_features(x, labels)


def test_data_of_another_shape_are_refused():
    x, labels = stripes(32)
    with pytest.raises(UsageError, match="data of one kind"):
        fit_features(x, labels, epochs=1).features(torch.zeros(2, 1, 9, 9))
