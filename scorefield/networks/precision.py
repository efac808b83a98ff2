"""Which number format trains fastest on this machine, found by measuring: claims of processors are not to be trusted.

bfloat16 doubles the speed of convolutions on processors with native instructions for it, and divides it by three on
others that accept the same calls.
"""

from __future__ import annotations

import time
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fastest_dtype"]

_GAIN = 1.3  # a smaller gain is not worth the lost digits


@cache
def fastest_dtype(device: torch.device) -> torch.dtype:
    """The format for the network's convolutions under autocast: bfloat16 where it is clearly faster, else float32.

    Takes some 50 ms on a processor. A run records the answer and keeps it: a machine may answer differently under load.

    Args:
        device: where the network will run.

    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    return torch.bfloat16 if _seconds(torch.float32) > _GAIN * _seconds(torch.bfloat16) else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """The shortest time of a convolution like those of the default U-Net, forward and backward."""
    x = torch.ones(16, 128, 14, 14, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.full((128, 128, 3, 3), 0.01, dtype=dtype, requires_grad=True)
    return min(_timed(x, weight) for _ in range(4))


def _timed(x: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    F.conv2d(x, weight, padding=1).sum().backward()
    return time.perf_counter() - start
