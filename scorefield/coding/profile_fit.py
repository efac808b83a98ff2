r"""Making a codec's profile for a model from training data: where the chain ends, its steps, and the last stage's network.

The chain costs rate/efficiency bits and the last stage what its network comes to; both are measured. An early end leaves the
last stage more to tell, a late one pays the trellis's loss on more bits. Nothing is chosen on data to be compressed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from scorefield.coding import trellis
from scorefield.coding.last_stage import encode_values
from scorefield.coding.pixel_fit import NoisedExamples, fit_pixels
from scorefield.coding.pixels import PixelNetwork
from scorefield.coding.profile import CodecProfile
from scorefield.coding.schedule import ErrorCurve, Node, Schedule, candidate_nodes
from scorefield.denoisers.base import Denoiser
from scorefield.errors import UsageError
from scorefield.streams import SampleStreams

Progress = Callable[[str], None]

MEMORY = 14
"""L of the trellis for groups: one of 16 saves a fifth of a per cent and takes four times as long."""

HIDDEN = {"small": (96, 64), "progressive": (96, 64), "archive": (192, 96)}
"""The widths of the last stage's layers."""

_STEP_COUNTS = (2, 3, 4, 6, 8, 12, 16, 20)
_MORE_STEPS = (28,)
_ONE_MEMORY, _ONE_STEPS = 12, (1, 2, 3, 4, 6)
_PROGRESSIVE_PSNR = 36.0
_SEED = 0xC0DEC
_LEAST_STEPS = 200
_HEADER_BITS = 36.0


@final
@dataclass(frozen=True)
class Effort:
    """How much is spent on a profile.

    Attributes:
        curve: examples that the error curve is measured on.
        examples: examples that the last stage is fitted to.
        steps: the most of its optimiser; fewer where each value would be seen more than `epochs` times.
        trial: steps of each trial of where the chain may end, likewise.
        epochs: how often each value is seen at most.
        group: how many examples a stream is expected to hold: what its chain's length is chosen for.
    """

    curve: int = 256
    examples: int = 20_000
    steps: int = 4_000
    trial: int = 400
    epochs: int = 60
    group: int = 500


DEFAULT_EFFORT = Effort()


def make_profile(
    denoiser: Denoiser,
    values: np.ndarray,
    levels: int,
    *,
    name: str = "small",
    model: str = "",
    mean: tuple[float, ...] = (0.0,),
    effort: Effort = DEFAULT_EFFORT,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> CodecProfile:
    """Make a profile.

    Args:
        denoiser: the model's, without guidance, in any precision.
        values: training examples (n, C, *d), whole numbers from 0.
        levels: V.
        name: one of `profile.NAMES`.
        model: digest of the model's weights.
        mean: of the data in model space.
        effort: how much to spend.
        seed: of all noise.
        progress: told what is being done.

    Raises:
        UsageError: too few examples.
    """
    if len(values) < 20:
        raise UsageError(
            f"a codec's profile is made from at least 20 training examples, got {len(values)}; give more of them"
        )
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(values))
    held = values[order[: max(4, min(effort.curve, len(values) // 8))]]
    rest = values[order[len(held) :][: effort.examples]]
    maker = _Maker(denoiser, levels, name, effort, seed, progress)
    progress(f"measuring the denoiser's error on {len(held)} examples")
    curve = maker.curve(held)
    start, network = maker.ended(curve, rest, held)
    progress(f"fitting the last stage to {len(rest)} examples at σ/α = {curve.nodes[start].ratio:.3g}")
    network, bits = maker.fitted(curve.nodes[start], rest, held, effort.steps, network)
    progress(f"the last stage costs {bits:.3f} bits a value, the chain {curve.rate(start):.3f}")
    schedules, expected = maker.schedules(curve, start, math.prod(values.shape[1:]))
    return CodecProfile(name, model, values.shape[1:], levels, mean, schedules, network, expected)


@final
@dataclass(frozen=True, eq=False)
class _Maker:
    denoiser: Denoiser
    levels: int
    name: str
    effort: Effort
    seed: int
    progress: Progress

    @property
    def counts(self) -> tuple[int, ...]:
        """How many steps a chain may have."""
        return (*_STEP_COUNTS, *_MORE_STEPS) if self.name == "archive" else _STEP_COUNTS

    def noised(self, values: np.ndarray, node: Node, number: int) -> NoisedExamples:
        """Examples at a node, with noise of their own."""
        streams = SampleStreams.numbered(_SEED + self.seed, number << 32, len(values))
        x = torch.from_numpy(values * (2.0 / max(1, self.levels - 1)) - 1.0).float()
        noised = x + node.ratio * streams.normal(x, 0)
        alpha = node.scale / math.sqrt(1.0 + node.ratio**2)
        parts = []
        with torch.inference_mode():
            for first in range(0, len(x), 256):
                x_t = alpha * noised[first : first + 256]
                parts.append(self.denoiser(x_t, node.time).x0.clamp(-1.0, 1.0))
        return NoisedExamples(values, torch.cat(parts).double().numpy(), noised.double().numpy())

    def curve(self, held: np.ndarray) -> ErrorCurve:
        """m at all nodes, never rising towards less noise: what noise in the measurement does."""
        nodes = candidate_nodes(self.denoiser.path, clearest=max(0.01, 0.5 / self.levels))
        x = held * (2.0 / max(1, self.levels - 1)) - 1.0
        errors = [float(((self.noised(held, node, k + 1).denoised - x) ** 2).mean()) for k, node in enumerate(nodes)]
        return ErrorCurve(nodes, tuple(np.minimum.accumulate(errors).tolist()))

    def ended(self, curve: ErrorCurve, rest: np.ndarray, held: np.ndarray) -> tuple[int, PixelNetwork | None]:
        """The node where the chain ends, and the network of the trial that found it."""
        if self.name == "progressive":
            clear = [k for k, error in enumerate(curve.errors) if 10.0 * math.log10(4.0 / error) >= _PROGRESSIVE_PSNR]
            return (clear or [len(curve.nodes) - 1])[0], None
        few = rest[: max(64, self.effort.examples // 5)]
        tried: dict[int, tuple[float, PixelNetwork]] = {}
        size = math.prod(rest.shape[1:])

        def cost(k: int) -> float:
            if k not in tried:
                network, bits = self.fitted(curve.nodes[k], few, held, self.effort.trial, None)
                tried[k] = (bits + min(self.chain_cost(curve, k, count, size) for count in self.counts), network)
                self.progress(
                    f"a chain to σ/α = {curve.nodes[k].ratio:.3g} would cost {tried[k][0]:.3f} bits a value in all"
                )
            return tried[k][0]

        best = _valley(cost, self._places(curve))
        return best, tried[best][1]

    def chain_cost(self, curve: ErrorCurve, last: int, count: int, size: int) -> float:
        """The bits a value that a chain of so many steps costs a group, its part of the header included."""
        values = size * self.effort.group
        sections = [bits * values for bits in curve.chain_bits(curve.best_nodes(last, count))]
        bits = sum(bit / trellis.efficiency(MEMORY, max(1, round(bit))) + _HEADER_BITS for bit in sections)
        return bits / values

    def _places(self, curve: ErrorCurve) -> list[int]:
        """Where a chain may end: every third node that leaves it something to tell, up to two bits a value of it."""
        most = min(2.0, 0.6 * math.log2(max(2, self.levels)))
        return [k for k in range(3, len(curve.nodes), 3) if 0.005 <= curve.rate(k) <= most] or [len(curve.nodes) // 2]

    def fitted(
        self, node: Node, rest: np.ndarray, held: np.ndarray, steps: int, start: PixelNetwork | None
    ) -> tuple[PixelNetwork, float]:
        """A last stage fitted at a node, and the bits a value that it costs on held-out examples."""
        examples, test = self.noised(rest, node, 1 << 10), self.noised(held, node, 1 << 11)
        size = max(1, 16_384 // math.prod(rest.shape[1:]))
        steps = min(steps, max(_LEAST_STEPS, self.effort.epochs * len(rest) // size))
        chosen = np.random.Generator(np.random.PCG64(self.seed + 1))
        network = fit_pixels(
            rest.shape[1:],
            self.levels,
            lambda _: examples[np.sort(chosen.integers(0, len(examples), min(size, len(examples))))],
            steps=steps,
            seed=self.seed,
            hidden=HIDDEN[self.name],
            start=start,
        )
        _, bits = encode_values(network, test.values, test.denoised, test.noised)
        return network, float(bits.mean()) / math.prod(rest.shape[1:])

    def schedules(
        self, curve: ErrorCurve, last: int, size: int
    ) -> tuple[tuple[Schedule, ...], tuple[tuple[float, ...], ...]]:
        """Chains to the last node: for groups the length that costs least, and short ones for single examples."""
        plans = {count: curve.best_nodes(last, count) for count in sorted({*self.counts, *_ONE_STEPS})}
        best = min(self.counts, key=lambda count: self.chain_cost(curve, last, count, size))
        best = max(self.counts) if self.name == "progressive" else best
        chosen = [(best, MEMORY), *((count, _ONE_MEMORY) for count in _ONE_STEPS)]
        found = [(Schedule.through([curve.nodes[k] for k in plans[count]], bits), count) for count, bits in chosen]
        return tuple(schedule for schedule, _ in found), tuple(curve.chain_bits(plans[count]) for _, count in found)


def _valley(cost: Callable[[int], float], places: list[int]) -> int:
    """The place of least cost, walking downhill from the middle: the cost has one valley."""
    at = len(places) // 2
    step = 1 if at + 1 < len(places) and cost(places[at + 1]) < cost(places[at]) else -1
    while 0 <= at + step < len(places) and cost(places[at + step]) < cost(places[at]):
        at += step
    return places[at]
