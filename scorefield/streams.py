"""Noise that belongs to a sample: sample k of seed s is the same whatever the batch it is drawn in.

A counter-based generator: the 64-bit word of (seed, sample, draw, position) is a hash of these four numbers, so any part of
any stream is computed at once, in any order, on any device, without a loop over samples. Two words of 32 bits make two
normals by Box and Muller's transform. The hash is SplitMix64's finaliser (Steele, Lea & Flood 2014).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, cast, final, runtime_checkable

from scorefield.errors import UsageError
from scorefield.shapes import Float, Generator, Int, Tensor

_GOLDEN = -0x61C8864680B583EB  # 2⁶⁴/φ as a signed 64-bit integer: SplitMix64's increment
_MIXERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
_TO_UNIT = 2.0**-32


@runtime_checkable
class NoiseSource(Protocol):
    """What a sampler asks for noise: draw number `draw`, in the shape, dtype and device of a batch."""

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """Standard normal noise of like's shape, dtype and device."""


@final
@dataclass(frozen=True, eq=False)
class SampleStreams:
    """One stream of standard normals for each sample of a batch.

    Attributes:
        seed: the seed of the whole drawing.
        samples: (b,) the index of each sample in it.
    """

    seed: int
    samples: Int[Tensor, " b"]

    @classmethod
    def numbered(cls, seed: int, first: int, count: int, device: str = "cpu") -> SampleStreams:
        """The streams of samples first … first + count − 1."""
        import torch

        return cls(seed, torch.arange(first, first + count, device=device))

    def words(self, draw: int, positions: int) -> Int[Tensor, "b positions"]:
        """The 64-bit words of one draw, hashed from (seed, sample, draw, position)."""
        import torch

        samples = self.samples
        key = _mix(_mix(samples * _GOLDEN + _signed(self.seed)) + draw * 2 + 1)
        counters = torch.arange(1, positions + 1, device=samples.device) * _GOLDEN
        return _mix(key[:, None] + counters)

    def uniform(self, draw: int, count: int) -> Tensor:
        """(b, count) uniform float64 numbers, strictly between 0 and 1."""
        return ((self.words(draw, count) >> 32).bitwise_and(0xFFFFFFFF).double() + 0.5) * _TO_UNIT

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """Standard normal noise of like's shape, dtype and device; like's batch must be as many as the samples."""
        import torch

        count = math.prod(like.shape[1:])
        words = self.words(draw, (count + 1) // 2)
        radius = (((words >> 32).bitwise_and(0xFFFFFFFF).double() + 0.5) * _TO_UNIT).log().mul(-2.0).sqrt()
        angle = (words.bitwise_and(0xFFFFFFFF).double() + 0.5) * (2.0 * math.pi * _TO_UNIT)
        pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        return pairs[:, :count].reshape(like.shape).to(like)


@final
@dataclass(frozen=True, eq=False)
class BatchStream:
    """PyTorch's generator as a source of noise: one stream for the whole batch, advanced by every draw."""

    generator: Generator

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """Standard normal noise of like's shape, dtype and device."""
        import torch

        noise = torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=self.generator.device)
        return noise.to(like.device)


@final
@dataclass(frozen=True, eq=False)
class BrownianPath:
    """One Brownian path as a source of noise: a step of K times its finest time step takes the sum of K increments, over √K.

    Two samplers whose steps are of equal length each, and the lengths multiples of the path's own, then solve the same
    equation with the same noise: what differs is the solver's error (Kloeden & Platen 1992, chapter 9).

    Attributes:
        increments: (n, b, *d) the path's increments over its own time step, as standard normals; z₁ first.
        stride: K, how many of them a draw takes.
    """

    increments: Float[Tensor, "n b *d"]
    stride: int = 1

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """(z_{(k−1)K+1} + … + z_{kK})/√K for draw k, of like's kind. Raises UsageError past the path's end."""
        part = self.increments[(draw - 1) * self.stride : draw * self.stride]
        if len(part) < self.stride:
            raise UsageError(
                f"this Brownian path has {len(self.increments) // self.stride} draws of {self.stride} increments, and draw {draw} was asked for; make it longer"
            )
        return (part.sum(0) / math.sqrt(self.stride)).to(like)


@final
@dataclass(frozen=True, eq=False)
class Shifted:
    """Another part of a source: its draw k is the source's draw k + `by`.

    Attributes:
        source: of noise.
        by: how many draws lie before it.
    """

    source: NoiseSource
    by: int

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """The source's noise of draw + by."""
        return self.source.normal(like, draw + self.by)


@final
@dataclass(frozen=True, eq=False)
class Tempered:
    """Noise of another temperature: N(0, τ² I).

    Attributes:
        source: of standard normal noise.
        temperature: τ > 0.

    Raises:
        UsageError: a temperature that is not positive and finite.
    """

    source: NoiseSource
    temperature: float

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise UsageError(f"a temperature is a positive number, 1 for none, got {self.temperature}")

    @classmethod
    def of(cls, source: NoiseSource, temperature: float) -> NoiseSource:
        """The source at a temperature: itself at 1. Raises UsageError."""
        tempered = cls(source, temperature)
        return source if temperature == 1.0 else tempered

    def normal(self, like: Tensor, draw: int) -> Tensor:
        """τ z."""
        return self.source.normal(like, draw) * self.temperature


def noise_source(generator: NoiseSource | Generator | None) -> NoiseSource | None:
    """Any kind of `generator=` argument as a noise source. Raises UsageError for what is none."""
    if generator is None or hasattr(generator, "normal"):
        return cast("NoiseSource | None", generator)
    if not hasattr(generator, "initial_seed"):
        raise UsageError(f"generator must be a torch.Generator or SampleStreams, got {generator!r}")
    return BatchStream(generator)


def _signed(number: int) -> int:
    """A whole number folded into the range of a signed 64-bit integer."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(words: Tensor) -> Tensor:
    """SplitMix64's finaliser; >> on signed integers copies the sign, so the copies are masked away."""
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * mixer
    return words ^ ((words >> 31) & ((1 << 33) - 1))
