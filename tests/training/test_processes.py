"""What several processes share, and what one of them does alone; the run of two is in `test_resume`."""

from __future__ import annotations

import pytest
import torch

from scorefield.errors import UsageError
from scorefield.training.processes import World, choose_device, joined


def test_one_process_is_a_world_of_one_that_waits_for_nobody(monkeypatch):
    """Without torchrun nothing of torch.distributed may be needed."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        values = torch.tensor([1.0, 2.0])
        assert world.gather(values) is values
        assert world.largest(3.0, -1.0) == (3.0, -1.0)
        world.wait()
        network = torch.nn.Linear(1, 1)
        assert world.wrap(network, torch.device("cpu")) is network
    assert not torch.distributed.is_initialized()


def test_only_the_first_process_writes():
    """Two writers would tear the logs."""
    assert [World(rank, 3).leads for rank in range(3)] == [True, False, False]


def test_a_batch_that_does_not_divide_is_refused_with_the_multiple():
    """Uneven shares would weigh samples differently; a rounded batch would not be the one asked for."""
    with pytest.raises(UsageError, match=r"batch of 10 .* 2 processes × 2 micro-batches.* multiple of 4"):
        World(0, 2).share(10, 2)


def test_a_device_that_is_not_here_is_refused_by_name():
    """PyTorch's own message for a wrong name is a page long."""
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99", "tpu"):
        with pytest.raises(UsageError, match=f"no device '{name}' here; use cpu"):
            choose_device(name)
