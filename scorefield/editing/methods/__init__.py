"""Methods: how a measurement is joined to a model, each a record that `Posterior` wraps a denoiser by."""

from __future__ import annotations

from scorefield.editing.methods.replacement import Replacement
from scorefield.editing.posterior import Method

METHODS: tuple[type[Method], ...] = (Replacement,)
"""Every public method; the contract tests run over this list."""

__all__ = ["METHODS", "Replacement"]
