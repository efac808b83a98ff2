"""`scorefield inpaint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scorefield.cli.restoring import Restoring

if TYPE_CHECKING:
    from scorefield.editing.operators import LinearOperator
    from scorefield.model import Model


@dataclass(frozen=True, kw_only=True)
class InpaintCommand(Restoring):
    """Fill what a mask hides of a picture in several ways; the rest comes back bit by bit."""

    mask: str
    """An image or .npy file: white is to be filled."""

    threshold: float | None = None
    """Mask values from it on are white; needed where there are more than two."""

    def _mask_file(self) -> str | None:
        return self.mask

    def _operator(self, model: Model) -> tuple[str, LinearOperator]:
        from scorefield.cli.pictures import read_mask
        from scorefield.model_restoration import hole

        mask = read_mask(model, self.mask, resize=self.resize, threshold=self.threshold)
        return f"mask={self.mask}", hole(model.config.representation, mask)
