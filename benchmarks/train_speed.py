"""Training speed: images a second of scorefield's default network and of diffusers' UNet2DModel, in one run.

Both train the same objective (noise prediction of DDPM, Ho et al. 2020) with batch 64, AdamW and an exponential moving
average; steps alternate between the two, so that a noisy machine slows both. Printed: images/s, their ratio, the share
of the convolution peak measured on this machine, and where a step's time goes. `--loss` trains both on the same images
of Fashion-MNIST and prints their losses on held-out images side by side: speed must not be bought with quality.
`--precision auto` adds scorefield's network in bfloat16 where that is faster on this processor, as in training.

    python benchmarks/train_speed.py --threads 1
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from scorefield.networks import default_network, fastest_dtype
from scorefield.training.optimisers import Muon, parameter_groups

BATCH = 64
SHAPES = {"1×28×28": (1, 28, 28), "3×32×32": (3, 32, 32)}
STEPS = 1000  # of DDPM's noise schedule
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
KINDS = {
    "convolution": ("convolution",),
    "normalisation": ("norm",),
    "activation": ("silu",),
    "attention": ("attention", "softmax", "bmm"),
    "copies": ("copy_", "cat", "clone", "fill_", "zero_"),
    "optimiser and average": ("adam", "lerp"),
}


VARIANCE = 0.5  # second moment of images in [−1, 1], about


class Preconditioned(nn.Module):
    """scorefield's network as a noise predictor, preconditioned as training does it (Karras et al. 2022, table 1).

    The best linear prediction of the noise plus what the network adds to it, in units of what the line leaves open:
    ε̂ = σ x_t / v + α √(s/v) F(x_t/√v, ¼ log σ/α), with v = α² s + σ² and s the second moment of the data.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = default_network(shape).build(shape)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂(x_t, t)."""
        alpha_2 = alpha_bars()[t].view(-1, 1, 1, 1)
        variance = alpha_2 * VARIANCE + 1 - alpha_2
        label = ((1 - alpha_2) / alpha_2).log().flatten() / 8
        inner = self.network(x_t * variance.rsqrt(), label)
        return (1 - alpha_2).sqrt() / variance * x_t + (alpha_2 * VARIANCE / variance).sqrt() * inner


class Diffusers(nn.Module):
    """The network of diffusers' unconditional-training example, with widths for 2.5 M parameters and small images."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.network = UNet2DModel(
            sample_size=shape[-1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=2,
            block_out_channels=(32, 64, 96),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """ε̂(x_t, t)."""
        return self.network(x_t, t).sample


@cache
def alpha_bars() -> Tensor:
    """ᾱ of DDPM's linear schedule."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, STEPS), dim=0)


@dataclass
class Trainer:
    """A model with its optimiser and average; `step` is one full training step."""

    model: Preconditioned | Diffusers
    dtype: torch.dtype = torch.float32
    rate: float = 1e-3
    orthogonal: bool = False
    average: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.parameters, lr=self.rate, fused=True)
        if self.orthogonal:
            self.optimizer = Muon(parameter_groups(self.model.network), lr=self.rate)
        self.average = [p.detach().clone() for p in self.parameters]

    def loss(self, x_0: Tensor, generator: torch.Generator) -> Tensor:
        """The mean squared error of the predicted noise at random steps."""
        t = torch.randint(STEPS, x_0.shape[:1], generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        alpha_bar = alpha_bars()[t].view(-1, 1, 1, 1)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            predicted = self.model(alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise, t)
        return F.mse_loss(predicted.float(), noise)

    def step(self, x_0: Tensor, generator: torch.Generator) -> None:
        """Loss, backward pass, AdamW, moving average."""
        loss = self.loss(x_0, generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        torch._foreach_lerp_(self.average, self.parameters, 0.005)


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """The shortest of `repeats` times of `run`, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def convolution_peak(repeats: int) -> float:
    """The most FLOP/s that a float32 convolution reaches here, over widths and both memory layouts."""
    peak = 0.0
    for width, side in ((128, 14), (192, 14), (256, 14), (256, 7)):
        weight = torch.randn(width, width, 3, 3)
        work = 2 * BATCH * width * width * 9 * side * side
        for memory_format in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(BATCH, width, side, side).to(memory_format=memory_format)
            w = weight.to(memory_format=memory_format)
            with torch.no_grad():
                seconds = best_seconds(lambda x=x, w=w: F.conv2d(x, w, padding=1), repeats)  # type: ignore[misc]
            peak = max(peak, work / seconds)
    return peak


def count_flops(trainer: Trainer, x_0: Tensor, generator: torch.Generator) -> int:
    """Floating-point operations of one training step, matrix products and convolutions only."""
    with FlopCounterMode(display=False) as counter:
        trainer.loss(x_0, generator).backward()
    return int(counter.get_total_flops())


def breakdown(trainer: Trainer, x_0: Tensor, generator: torch.Generator) -> dict[str, float]:
    """The share of a step's time by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        trainer.step(x_0, generator)
    events: EventList = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    shares = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in events:
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "rest")
        shares[kind] += event.self_cpu_time_total / total
    return shares


def median_seconds(
    trainers: dict[str, Trainer], x_0: Tensor, generator: torch.Generator, steps: int
) -> dict[str, float]:
    """The median time of a step of each trainer; their steps alternate."""
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(steps + 2):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(x_0, generator)
            if i >= 2:  # the first steps allocate
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def make_trainers(shape: tuple[int, ...], precision: str) -> dict[str, Trainer]:
    """Both trainers, and scorefield's once more in the precision that training would choose here, if it is another."""
    torch.manual_seed(0)
    trainers = {"scorefield": Trainer(Preconditioned(shape)), "diffusers": Trainer(Diffusers(shape))}
    dtype = fastest_dtype(torch.device("cpu"))
    if precision == "auto" and dtype != torch.float32:
        trainers[f"scorefield {str(dtype).removeprefix('torch.')}"] = Trainer(Preconditioned(shape), dtype)
    return trainers


def compare_speed(name: str, shape: tuple[int, ...], steps: int, peak: float, precision: str) -> None:
    """Print images/s, ratio, share of the peak and breakdown for samples of one shape."""
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.randn(BATCH, *shape, generator=generator)
    trainers = make_trainers(shape, precision)
    seconds = median_seconds(trainers, x_0, generator, steps)
    print(f"\n{name}, batch {BATCH}")
    for kind, trainer in trainers.items():
        millions = sum(p.numel() for p in trainer.parameters) / 1e6
        share = count_flops(trainer, x_0, generator) / seconds[kind] / peak
        ratio = seconds["diffusers"] / seconds[kind]
        rate = BATCH / seconds[kind]
        print(f"  {kind:21} {millions:.2f} M  {rate:6.1f} images/s  ×{ratio:.2f}  {share:.2f} of the float32 peak")
        shares = breakdown(trainer, x_0, generator)
        print("    " + ", ".join(f"{key} {value:.0%}" for key, value in shares.items()))


def fashion_batches(images: int) -> tuple[Iterator[Tensor], Tensor]:
    """Batches of the first images of Fashion-MNIST in [−1, 1], and 1,024 held-out ones from its end."""
    pixels = np.frombuffer(gzip.decompress(FASHION_MNIST.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    data = torch.from_numpy(pixels.copy())
    order = torch.randperm(len(data) - 1024, generator=torch.Generator().manual_seed(0))
    batches = (data[order[i % len(order) :][:BATCH]] / 127.5 - 1 for i in range(0, images - BATCH + 1, BATCH))
    return batches, data[-1024:] / 127.5 - 1


def compare_loss(images: int, precision: str) -> None:
    """Train all on the same images with the same noise; print the held-out loss of each."""
    print(f"\nloss after {images} images of Fashion-MNIST (noise prediction, rate 1e-3 throughout, live weights)")
    trainers = make_trainers((1, 28, 28), precision)
    trainers["scorefield with Muon"] = Trainer(Preconditioned((1, 28, 28)), orthogonal=True)
    for name, trainer in trainers.items():
        batches, held_out = fashion_batches(images)
        generator = torch.Generator().manual_seed(1)
        start = time.perf_counter()
        for x_0 in batches:
            trainer.step(x_0, generator)
        seconds = time.perf_counter() - start
        trainer.model.eval()
        with torch.no_grad():
            loss = np.mean([trainer.loss(x, generator.manual_seed(i)) for i, x in enumerate(held_out.split(BATCH))])
        print(f"  {name:21} held-out loss {loss:.4f}  in {seconds:.0f} s", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads of both")
    parser.add_argument("--quick", action="store_true", help="few steps: a rough figure in seconds")
    parser.add_argument("--loss", action="store_true", help="also compare the loss per image seen")
    parser.add_argument("--images", type=int, default=32_000, help="images each sees for --loss")
    parser.add_argument("--precision", choices=("float32", "auto"), default="auto", help="auto adds a bfloat16 row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    peak = convolution_peak(3 if options.quick else 10)
    print(f"{options.threads} thread(s); convolution peak {peak / 1e9:.0f} GFLOP/s in float32")
    for name, shape in SHAPES.items():
        compare_speed(name, shape, 3 if options.quick else 15, peak, options.precision)
    if options.loss:
        compare_loss(6400 if options.quick else options.images, options.precision)


if __name__ == "__main__":
    main()
