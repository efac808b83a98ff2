"""`scorefield colorize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scorefield.cli.restoring import Restoring

if TYPE_CHECKING:
    from scorefield.editing.operators import LinearOperator
    from scorefield.model import Model


@dataclass(frozen=True, kw_only=True)
class ColorizeCommand(Restoring):
    """Colour a grey picture in several ways, by a model of colour pictures."""

    def _operator(self, model: Model) -> tuple[str, LinearOperator]:
        from scorefield.editing.operators import Separable

        return "grey", Separable.grey(model.config.shape)
