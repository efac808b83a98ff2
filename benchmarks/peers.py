"""What scorefield is measured beside: diffusers' UNet2DModel, trained with DDPM and drawn from with DDIM.

The settings are those of diffusers' unconditional-training example with what makes a short run good: batch 64, AdamW at
1e-3, 200 steps of warm-up, a cosine that reaches zero when the clock does, and an average whose memory grows with the
run (diffusers' own `EMAModel` with warm-up, power 3/4). With labels, the network gets diffusers' class embedding, and
samples are drawn with the classes as often as the data have them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor

RATE = 1e-3
WARM_UP = 200
BATCH = 64
SAMPLING_BATCH = 250
WIDTHS = (32, 64, 96)  # 2.5 M parameters


@dataclass(frozen=True)
class PeerRun:
    """A trained peer and what its training came to."""

    network: UNet2DModel
    steps: int
    examples: int
    seconds: float

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def build(shape: tuple[int, ...], classes: int | None) -> UNet2DModel:
    """The network of diffusers' example, with widths for small images and about 2.5 M parameters."""
    return UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=2,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )


def train(
    images: Tensor,
    labels: Tensor | None,
    *,
    seconds: float,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    report: Callable[[str], None] = print,
) -> PeerRun:
    """Train for a wall time and return the averaged network.

    Args:
        images: (n, C, H, W), 8-bit.
        labels: their classes, or None to train without.
        seconds: the wall time; the last step may end a little after it.
        seed: of the weights, the order and the noise.
        dtype: of the network's arithmetic, by autocast.
        report: gets a line now and then.
    """
    torch.manual_seed(seed)
    network = build(tuple(images.shape[1:]), int(labels.max()) + 1 if labels is not None else None)
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    start = time.perf_counter()
    step = 0
    for step, rows in enumerate(_batches(len(images), seed)):
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            break
        _set_rate(optimizer, step, elapsed / seconds)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = _loss(network, images[rows], None if labels is None else labels[rows])
        _update(network, optimizer, loss)
        average.step(network.parameters())
        if step % 50 == 49:
            report(f"peer: step {step + 1}, loss {float(loss.detach()):.4f}, {elapsed:.0f} of {seconds:.0f} s")
    spent = time.perf_counter() - start
    average.copy_to(network.parameters())
    return PeerRun(network.eval(), step, step * BATCH, spent)


def _set_rate(optimizer: torch.optim.Optimizer, step: int, progress: float) -> None:
    """Warm-up by steps, then a cosine to zero by the clock."""
    rate = RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimizer.param_groups:
        group["lr"] = rate


def _update(network: UNet2DModel, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def _loss(network: UNet2DModel, images: Tensor, labels: Tensor | None) -> Tensor:
    """The mean squared error of the predicted noise at random steps (Ho et al. 2020, eq. 14)."""
    scheduler = DDPMScheduler()
    x_0 = images.float() / 127.5 - 1
    noise = torch.randn_like(x_0)
    t = torch.randint(scheduler.config.num_train_timesteps, x_0.shape[:1])
    predicted = network(scheduler.add_noise(x_0, noise, t), t, class_labels=labels).sample
    return F.mse_loss(predicted.float(), noise)


def _batches(count: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: count - count % BATCH].split(BATCH)


@torch.no_grad()
def sample(network: UNet2DModel, classes: Tensor | None, count: int, *, steps: int = 50, seed: int = 0) -> Tensor:
    """Draw 8-bit images (count, C, H, W) by DDIM in diffusers' own way; `classes`, if any, has one a sample."""
    generator = torch.Generator().manual_seed(seed)
    side, channels = network.config.sample_size, network.config.in_channels
    noise = torch.randn(count, channels, side, side, generator=generator)
    groups = range(0, count, SAMPLING_BATCH)
    parts = [slice(start, min(start + SAMPLING_BATCH, count)) for start in groups]
    drawn = [_denoise(network, noise[part], None if classes is None else classes[part], steps) for part in parts]
    return ((torch.cat(drawn).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _denoise(network: UNet2DModel, x: Tensor, classes: Tensor | None, steps: int) -> Tensor:
    scheduler = DDIMScheduler.from_config(DDPMScheduler().config)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t, class_labels=classes).sample, t, x).prev_sample
    return x
