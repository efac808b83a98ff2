"""`scorefield upscale`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scorefield.cli.restoring import Restoring

if TYPE_CHECKING:
    from scorefield.editing.operators import LinearOperator
    from scorefield.model import Model

_USUAL = 4


@dataclass(frozen=True, kw_only=True)
class UpscaleCommand(Restoring):
    """Enlarge a small picture to the model's size in several ways; shrunk again, each is that picture but for what is clipped at black and white."""

    factor: int | None = None
    """How much smaller a side is; found from the sizes without it, and 4 with --degrade."""

    def _operator(self, model: Model) -> tuple[str, LinearOperator]:
        from scorefield.editing.operators import Separable
        from scorefield.model_restoration import averages

        factor = self.factor if self.factor is not None or not (self.degrade or self.resize) else _USUAL
        if factor is not None:
            return f"downsample={factor}", Separable.downsampling(model.config.shape, factor)
        operator = averages(model.config.representation, self._shape(model))
        return "downsample", operator

    def _shape(self, model: Model) -> tuple[int, ...]:
        """That of the file, as the model's data are laid out."""
        from scorefield.cli.pictures import array_of, header_of, require_file

        require_file(self.image)
        if self.image.lower().endswith(".npy"):
            return array_of(self.image).shape
        found, channels = header_of(self.image), model.config.shape[0]
        return (found.height, found.width) if channels == 1 else (found.height, found.width, channels)
