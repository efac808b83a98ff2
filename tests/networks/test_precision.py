"""The number format is chosen by measuring, and stays chosen."""

from __future__ import annotations

import pytest
import torch

from scorefield.networks import fastest_dtype, precision


@pytest.mark.parametrize(("low", "expected"), [(0.5, torch.bfloat16), (0.9, torch.float32), (3.0, torch.float32)])
def test_bfloat16_is_chosen_only_where_it_is_clearly_faster(
    low: float, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that emulates it would train three times slower; a small gain is not worth the lost digits."""
    monkeypatch.setattr(precision, "_seconds", lambda dtype: low if dtype == torch.bfloat16 else 1.0)
    precision.fastest_dtype.cache_clear()
    assert fastest_dtype(torch.device("cpu")) == expected
    precision.fastest_dtype.cache_clear()


def test_answer_is_one_that_training_can_use() -> None:
    """The measurement itself must run here."""
    assert fastest_dtype(torch.device("cpu")) in (torch.float32, torch.bfloat16)
