"""A score model ready for use: a denoiser, and the way between its space and the data's own units.

model = scorefield.load("runs/demo")
samples = model.sample(64, seed=0)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn

from scorefield.data.moments import Moments
from scorefield.denoisers import (
    Centred,
    CentredEnergy,
    Classifier,
    Clipped,
    Denoiser,
    Energy,
    NetworkDenoiser,
    NetworkEnergy,
)
from scorefield.denoisers.guidance import Interval
from scorefield.errors import RefusedFileError, UsageError, unknown_name
from scorefield.likelihood import Measured, Method
from scorefield.model_calibration import calibrate_model, read_calibration, save_calibration
from scorefield.model_conditions import condition_rows, example, told, typical_rows
from scorefield.model_config import ModelConfig
from scorefield.model_folder import SafetensorsHeader, read_model, save_model
from scorefield.model_guidance import Guides, with_autoguidance, with_classifier, with_guidance
from scorefield.samplers import Calibrated, Calibration, Sampler, State
from scorefield.streams import SampleStreams, Tempered

if TYPE_CHECKING:
    from scorefield.editing.operators import LinearOperator
    from scorefield.model_restoration import Restored

_MOMENTS = "moments."
_CLASS_DRAW = 1 << 40
"""The number of the draw that chooses a sample's class: far from those of its noise."""


@final
@dataclass(frozen=True, eq=False)
class Model:
    """A trained score model.

    Attributes:
        config: what it is.
        network: its weights.
        moments: mean, eigenvalues, eigenvectors and residual variance of the data in model space, by name.
        calibration: how the sampler `Calibrated` draws from it with few evaluations; None where it has not been calibrated.
        guides: how it is guided beyond its configuration's scale.
    """

    config: ModelConfig
    network: nn.Module
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    calibration: Calibration | None = None
    guides: Guides = field(default_factory=Guides)

    @property
    def plain_denoiser(self) -> Denoiser:
        """E[x₀ | x_t] in model space as the network has it: neither guided nor clipped."""
        return make_denoiser(self.config, self.network)

    @property
    def denoiser(self) -> Denoiser:
        """E[x₀ | x_t] in model space, for any sampler or wrapper; guided and clipped where the model is to be."""
        scale = self.config.guidance if self.is_conditional else 1.0
        denoiser = self.guides.around(self.plain_denoiser, self._null, scale)
        clips = self.config.clip and self.config.representation.levels is not None
        return Clipped(denoiser) if clips else denoiser

    @property
    def is_conditional(self) -> bool:
        """Whether it is a model of classes or of conditions."""
        return bool(self.config.classes or self.config.conditions)

    @property
    def class_names(self) -> tuple[str, ...]:
        """What samples can be asked for: the model's classes, or those of its classifier; none without either."""
        return self.config.class_names or self.guides.class_names

    @property
    def _null(self) -> int | float:
        """What stands for "no class" or "no condition"."""
        return self.config.classes or math.nan

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def sample(
        self,
        count: int,
        *,
        sampler: Sampler | None = None,
        seed: int = 0,
        classes: Any = None,
        condition: Any = None,
        temperature: float = 1.0,
        first: int = 0,
        batch: int = 256,
    ) -> np.ndarray:
        """Draw samples in the data's own units, dtype and layout.

        Args:
            count: how many.
            sampler: any sampler; the model's own where None.
            seed: sample k of a seed is the same whatever count, first and batch are.
            classes: a class (name or number) for all, or one a sample; None draws them as frequent as in the data.
            condition: for a model of conditions k numbers for all, or a row a sample, in the data's own units; none without it.
            temperature: what all noise is multiplied by: below 1 samples are more typical and less varied (M43).
            first: the number of the first sample.
            batch: how many at a time.

        Returns:
            (count, …) as the data are laid out: images (H, W) for one channel, (H, W, C) for more.

        Raises:
            UsageError: an unknown class, an impossible condition, or a sampler that does not fit the path.

        Example:
            >>> import scorefield as sf
            >>> model = sf.fit("mixture-2d", steps=2, seed=0)
            >>> model.sample(3, seed=1).shape
            (3, 2)
        """
        parts = [
            x
            for x, _ in self.batches(
                count,
                sampler=sampler,
                seed=seed,
                classes=classes,
                condition=condition,
                temperature=temperature,
                first=first,
                batch=batch,
            )
        ]
        empty = self.config.representation.from_model(torch.empty(0, *self.config.shape))
        return np.concatenate([empty, *parts])

    def batches(
        self,
        count: int,
        *,
        sampler: Sampler | None = None,
        seed: int = 0,
        classes: Any = None,
        condition: Any = None,
        temperature: float = 1.0,
        first: int = 0,
        batch: int = 256,
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """The samples of `sample`, a batch at a time, each with its class numbers or its standardised condition (None without)."""
        if count < 0 or batch < 1:
            raise UsageError(f"drawing needs count ≥ 0 and batch ≥ 1, got count={count}, batch={batch}")
        wanted = self.wanted(count, classes, condition)
        for start in range(0, count, batch):
            size = min(batch, count - start)
            part = None if wanted is None else wanted[start : start + size]
            labels = self.labels(seed, first + start, size, part)
            *_, last = self.trajectory(
                size, sampler=sampler, seed=seed, labels=labels, temperature=temperature, first=first + start
            )
            yield self.config.representation.from_model(last.x), None if labels is None else labels.cpu().numpy()

    def trajectory(
        self,
        count: int,
        *,
        sampler: Sampler | None = None,
        seed: int = 0,
        labels: Tensor | None = None,
        temperature: float = 1.0,
        first: int = 0,
    ) -> Iterator[State]:
        """The states of one batch on its way from noise to data, in model space: for films, previews and early stopping."""
        streams = Tempered.of(SampleStreams.numbered(seed, first, count, device=str(self.device)), temperature)
        x_T = self.noise(count, seed=seed, first=first) * temperature
        walker = self.ready(sampler)
        if temperature != 1.0 and walker.decides_by_noise:
            raise UsageError(
                f"{type(walker).__name__} accepts moves by chances that it draws from the same noise, which another temperature would bias; set metropolis=false, or leave temperature out"
            )
        states = walker.trajectory(self.denoiser, x_T, generator=streams, condition=labels)
        while True:
            with self.evaluating():
                state = next(states, None)
            if state is None:
                return
            yield state

    def noise(self, count: int, *, seed: int = 0, first: int = 0) -> Tensor:
        """What samples start from: (count, …) draws from the path's prior, in model space."""
        streams = SampleStreams.numbered(seed, first, count, device=str(self.device))
        like = torch.empty(count, *self.config.shape, device=self.device)
        return streams.normal(like, 0) * self.config.path.prior_std

    def labels(
        self, seed: int, first: int, count: int, wanted: Sequence[int] | np.ndarray | None = None
    ) -> Tensor | None:
        """What samples are conditioned on: `wanted`, or classes as frequent as in the data; None without classes or condition.

        Raises:
            UsageError: no condition, for a model that was always told one.
        """
        if self.config.conditions:
            return told(self.config, wanted, self.device)
        if not self.class_names:
            return None
        if wanted is not None:
            return torch.as_tensor(np.asarray(wanted), dtype=torch.int64, device=self.device)
        shares = self.config.class_weights or self.guides.class_weights
        weights = torch.tensor(shares, dtype=torch.float64, device=self.device)
        u = SampleStreams.numbered(seed, first, count, device=str(self.device)).uniform(_CLASS_DRAW, 1)[:, 0]
        return torch.searchsorted(weights.cumsum(0) / weights.sum(), u).clamp(max=len(shares) - 1)

    def wanted(self, count: int, classes: Any = None, condition: Any = None) -> np.ndarray | None:
        """The class numbers (count,) or the conditions (count, k) asked for, as `labels` takes them; None for any.

        Raises:
            UsageError: what the model does not know, or another count.
        """
        if condition is None:
            return self.class_numbers(classes, count)
        rows = condition_rows(self.config, condition, count)
        self.class_numbers(classes, count)
        return rows

    def typical(self, count: int, seed: int = 0) -> Tensor | None:
        """What pilots and previews are conditioned on: classes, or conditions, as they are in the data; None without."""
        rows = typical_rows(self.config, count, seed) if self.config.conditions else None
        return self.labels(seed, 0, count, rows)

    def class_numbers(self, classes: Any, count: int) -> np.ndarray | None:
        """The number of each sample's class: `classes` is one name or number for all, one a sample, or None for any.

        Raises:
            UsageError: an unknown class, another count, or a model without classes.
        """
        if classes is None:
            return None
        if self.config.conditions:
            raise UsageError(
                f"this model has no classes, it is conditioned on numbers; leave the class out, and give a condition such as {example(self.config)}"
            )
        if not self.class_names:
            raise UsageError(
                "this model was trained without classes; leave the class out, train on data with labels, or guide it by a classifier"
            )
        several = isinstance(classes, (Sequence, np.ndarray)) and not isinstance(classes, str)
        numbers = [self._class_number(item) for item in (classes if several else [classes])]
        if several and len(numbers) != count:
            raise UsageError(f"classes must be one for all or one a sample: got {len(numbers)} for {count} samples")
        return np.array(numbers if several else numbers * count, dtype=np.int64)

    def _class_number(self, item: Any) -> int:
        """A class by its name; by its number where no class is called so."""
        names, text = self.class_names, str(item)
        if text in names:
            return names.index(text)
        if text.isascii() and text.isdigit() and int(text) < len(names):
            return int(text)
        raise unknown_name("class", text, names)

    def ready(self, sampler: Sampler | None = None) -> Sampler:
        """A sampler (the model's own where None) as this model is drawn from: `Calibrated` gets the model's calibration.

        A calibration is of one scale of guidance; with another, `Calibrated` walks uncalibrated.
        """
        chosen = sampler or self.config.sampler
        if not isinstance(chosen, Calibrated) or chosen.calibration is not None or self.calibration is None:
            return chosen
        same = not self.is_conditional or self.calibration.guidance == self.config.guidance
        fits = same and self.guides.are_plain
        return replace(chosen, calibration=self.calibration) if fits else chosen

    def calibrated(self, calibration: Calibration | None = None, **options: Any) -> Model:
        """The same model with a calibration, made now where none is given (`calibrate_model` documents the options).

        Example:
            >>> import scorefield as sf
            >>> model = sf.fit("mixture-2d", steps=2).calibrated(budgets=[5], pilots=16, rounds=0)
            >>> model.sample(2, sampler=sf.Calibrated(steps=5)).shape
            (2, 2)
        """
        return replace(self, calibration=calibration or calibrate_model(self, **options))

    def likelihood(self, x: Any, method: str | Method = "flow", **options: Any) -> Measured:
        r"""Measure −log₂ p(x) in bits per dimension: `method` is flow, bound, or a record of one.

        Args:
            x: (n, …) data in their own units and layout, as `sample` hands them out.
            method: "flow", the probability flow's density (M40), "bound", the variational bound (M15, M21), or a
                `FlowLikelihood` or `VariationalBound`.
            options: classes or condition (of p(x|y), as for `sample`; p(x) without), seed, repeats (of the noise, 2), batch, float64, and
                the fields of the method's record.

        Returns:
            the value, its standard errors over the data and over the noise, each sample's, evaluations and terms; of the
            probability of integers, and of the density of other data in their own units.

        Raises:
            UsageError: data of another shape or kind, or options that do not fit the model.

        Example:
            >>> import scorefield as sf
            >>> model = sf.fit("mixture-2d", steps=2, seed=0)
            >>> found = model.likelihood(model.sample(4), method="flow")
            >>> found.per_sample.shape, found.evaluations[0] > 10
            (torch.Size([4]), True)
        """
        from scorefield.model_likelihood import likelihood_of

        return likelihood_of(self, x, method, **options)

    def edit(self, guide: Any, strength: float = 0.5, **options: Any) -> np.ndarray:
        """Edit one example by SDEdit: noise it, and draw from there (M44); `model_editing.edit` documents the options."""
        from scorefield.model_editing import edit

        return edit(self, guide, strength, **options).samples

    def interpolate(self, a: Any, b: Any, **options: Any) -> np.ndarray:
        """What lies between two examples, ends included (M46, M43); `model_editing.interpolate` documents the options."""
        from scorefield.model_editing import interpolate

        return interpolate(self, a, b, **options).samples

    def invert(self, x: Any, **options: Any) -> np.ndarray:
        """The latents of data: along the flow to pure noise (M43); `model_editing.invert` documents the options."""
        from scorefield.model_editing import invert

        return invert(self, x, **options)

    def decode(self, latents: Any, **options: Any) -> np.ndarray:
        """The data of latents: the inverse of `invert` (M43); `model_editing.decode_latents` documents the options."""
        from scorefield.model_editing import decode_latents

        return decode_latents(self, latents, **options)

    def restore(self, y: Any, operator: LinearOperator, **options: Any) -> Restored:
        r"""Draw samples of p(x | y),  y = A x + σ_y n:  what a measurement leaves open, as the model knows it.

        Args:
            y: one measurement in the data's own units, laid out as data are: a picture (H, W) of one channel, (H, W, C) of more; what a
                projection or a dense matrix measures is a vector. Whole numbers are taken as rounded (but for a mask), σ² = σ_y² + 1/12.
            operator: A: `Mask`, `Separable.downsampling`, `.blur`, `.grey`, `.identity`, `Projection`, `Dense` or `Matrixless`.
            options: noise (σ_y in the data's units, 0), method (a record of one; what measures best for the operator), sampler (`DDIM`
                with 100 steps and η = 1), count (1), seed, classes or condition (none without them, also for a model of classes), batch (256).

        Returns:
            samples (n, …) in the data's own units, their mean and standard deviation value by value, and the evaluations. Sample k of a
            seed is the same whatever count and batch are. What a mask shows without noise is handed back bit by bit.

        Raises:
            UsageError: a measurement that is not of the operator's shape, an operator for other data, a method that cannot use it.

        Example:
            >>> import numpy as np, torch, scorefield as sf
            >>> model = sf.fit("mixture-2d", steps=2, seed=0)
            >>> found = model.restore([1.5], sf.Dense(torch.tensor([[1.0, 1.0]])), noise=0.1, count=4)
            >>> found.samples.shape, found.mean.shape, found.std.shape
            ((4, 2), (2,), (2,))
        """
        from scorefield.model_restoration import restore

        return restore(self, y, operator, **options)

    def inpaint(self, image: Any, mask: Any, **options: Any) -> Restored:
        """Fill what a mask hides; the rest comes back bit by bit.

        Args:
            image: one example in the data's own units and layout.
            mask: True (or 1) where it is to be filled; of the image's shape, or of one channel for all.
            options: as for `restore`.

        Raises:
            UsageError: a mask of another shape, one that hides nothing or everything, or as `restore`.
        """
        from scorefield.model_restoration import inpaint

        return inpaint(self, image, mask, **options)

    def colorize(self, grey: Any, **options: Any) -> Restored:
        """Colour a grey picture (H, W), the luma of what is wanted; options and errors as for `restore`."""
        from scorefield.model_restoration import colorize

        return colorize(self, grey, **options)

    def upscale(self, small: Any, factor: int | None = None, **options: Any) -> Restored:
        """Enlarge a picture whose values are means of cells of `factor` pixels a side, found from the shapes without; as `restore`."""
        from scorefield.model_restoration import upscale

        return upscale(self, small, factor, **options)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, no dropout, in the network and in what guides it; their modes are put back."""
        networks = [self.network, *self.guides.networks()]
        were_training = [network.training for network in networks]
        for network in networks:
            network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for network, was_training in zip(networks, were_training, strict=True):
                network.train(was_training)

    def with_guidance(self, scale: float, interval: Interval | None = None, rescale: float = 0.0) -> Model:
        """The same model, drawn from with another scale of classifier-free guidance (M42); 1 is none.

        Args:
            scale: w.
            interval: the noise-to-signal ratios σ/α at which there is guidance; everywhere where None.
            rescale: φ, how far what is guided is brought back to the spread of what is not, 0 to 1.

        Raises:
            UsageError: the model has neither classes nor conditions, or the scale is impossible.
        """
        return with_guidance(self, scale, interval, rescale)

    def with_classifier(
        self, classifier: Classifier, scale: float = 1.0, interval: Interval | None = None, told: bool = False
    ) -> Model:
        """The same model, guided by a classifier: D + w (σ²/α) ∇ log p(y | x_t)  (M42).

        Args:
            classifier: log p(y | x_t) on the model's path, such as `load_classifier` reads.
            scale: w; 1 is Bayes' rule.
            interval: the σ/α at which there is guidance; everywhere where None.
            told: whether the network is told the class too, and its own guidance kept; it answers for all classes without.

        Raises:
            UsageError: a model of conditions, or one that was never without its class; a classifier of other data.
        """
        return with_classifier(self, classifier, scale, interval, told)

    def with_autoguidance(self, guide: Model, scale: float = 1.5, interval: Interval | None = None) -> Model:
        """The same model, led away from what a worse one answers: D_g + w (D − D_g), in place of other guidance.

        Args:
            guide: a smaller model of the same data, or an earlier checkpoint (`checkpoint_model`).
            scale: w; 1 is none.
            interval: the σ/α at which it is led; everywhere where None.

        Raises:
            UsageError: a guide of other data or on another path.
        """
        return with_autoguidance(self, guide, scale, interval)

    def to(self, device: str | torch.device) -> Model:
        """The model, and what guides it, on another device; networks are moved themselves, as `nn.Module.to` moves them."""
        return replace(self, network=self.network.to(device), guides=self.guides.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `model.safetensors` holds, by name."""
        return weights_of(self.network) | {_MOMENTS + name: tensor for name, tensor in self.moments.items()}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json`, `model.safetensors` and, where there is one, `calibration.json` into a folder, made where it is missing.

        Raises:
            UsageError: a model with guides, which would be lost.
            StorageError: it cannot be written.
        """
        self.guides.require_none()
        os.makedirs(folder, exist_ok=True)
        save_model(folder, self.config.to_plain(), self.tensors())
        if self.calibration is not None:
            save_calibration(folder, self.calibration)


def named_moments(found: Moments) -> dict[str, Tensor]:
    """The data's moments as tensors by name, to be stored with a model."""
    values = {name: getattr(found, name) for name in ("mean", "eigenvalues", "eigenvectors", "residual_variance")}
    return {name: torch.as_tensor(value, dtype=torch.float32).clone() for name, value in values.items()}


def make_denoiser(config: ModelConfig, network: Any) -> Denoiser:
    """The denoiser that a configuration describes, around any callable in the network's place."""
    device = next(network.parameters()).device if isinstance(network, nn.Module) else None
    mean = torch.tensor(config.mean, dtype=torch.float32, device=device).reshape(-1, *(1,) * (len(config.shape) - 1))
    if isinstance(config.parameterisation, Energy):
        known = NetworkEnergy(network, config.path, config.parameterisation)
        return CentredEnergy(known, mean) if any(config.mean) else known
    denoiser = NetworkDenoiser(network, config.path, config.parameterisation)
    return Centred(denoiser, mean) if any(config.mean) else denoiser


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors by name, detached and contiguous."""
    return {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}


def load(folder: str | os.PathLike[str], *, device: str | torch.device = "cpu", calibrated: bool = True) -> Model:
    """Load a model from the folder of a run or a model; nothing else need be said, ever.

    Args:
        folder: of a run, or of a model.
        device: where the weights go.
        calibrated: whether its calibration is read too, where it has one.

    Raises:
        UsageError: there is no such folder, or it has nothing to do with a model.
        NoCheckpointError: a run that has saved no weights yet.
        RefusedFileError: a damaged, hostile or foreign file, named.
    """
    plain, tensors = read_model(folder, check=_check_weights)
    config = ModelConfig.from_plain(plain)
    calibration = read_calibration(folder, tensors) if calibrated else None
    with torch.random.fork_rng(devices=[]):
        network = config.build_network()
    moments = {name.removeprefix(_MOMENTS): tensors.pop(name) for name in list(tensors) if name.startswith(_MOMENTS)}
    network.load_state_dict(tensors)
    return Model(config, network.to(device).eval(), moments, calibration)


def _check_weights(plain: Mapping[str, Any], header: SafetensorsHeader) -> None:
    """Refuse weights that are not those of the network which the configuration describes, before reading them."""
    config = ModelConfig.from_plain(plain)
    with torch.device("meta"):
        network = config.build_network()
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {
        name: tuple(cast(Any, entry).shape) for name, entry in header.tensors.items() if not name.startswith(_MOMENTS)
    }
    if wanted != found:
        names = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise RefusedFileError(
            f"model.safetensors: '{names[0]}' should have shape {wanted.get(names[0])}, found {found.get(names[0])} ({len(names)} tensors differ); the weights belong to another configuration"
        )
