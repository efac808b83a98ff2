"""The processes of one training run, as `torchrun` starts them; one process is a world of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scorefield.errors import UsageError

_TIMEOUT = timedelta(seconds=120)


@dataclass(frozen=True)
class World:
    """This process among all: its rank, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batch: int, accumulate: int) -> list[slice]:
        """This process's micro-batches as slices of the whole batch, in order.

        Raises:
            UsageError: where the batch does not divide.
        """
        parts = self.size * accumulate
        if batch % parts:
            raise UsageError(
                f"a batch of {batch} does not divide among {self.size} processes × {accumulate} micro-batches; use a multiple of {parts}"
            )
        width = batch // parts
        return [
            slice(part * width, (part + 1) * width)
            for part in range(self.rank * accumulate, (self.rank + 1) * accumulate)
        ]

    def wrap(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)

    def gather(self, values: Tensor) -> Tensor:
        """All processes' (b/world,) values as one (b,) vector, in the order of ranks."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def largest(self, *values: float) -> tuple[float, ...]:
        """The largest of each value over the processes: how they agree on the clock and on stopping."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tuple(tensor.tolist())

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the world that `torchrun` describes in the environment, for the time of the block.

    Args:
        device: this process's own; GPUs speak by NCCL, processors by Gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def choose_device(name: str | None) -> torch.device:
    """The device by name; where none is named, a GPU or else the CPU. Of several GPUs each process takes its own.

    Raises:
        UsageError: there is no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(
            f"no device '{name}' here; use cpu" + (", cuda or cuda:N" if torch.cuda.is_available() else "")
        ) from None
    return device
