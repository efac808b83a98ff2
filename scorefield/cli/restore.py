"""`scorefield restore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scorefield.cli.restoring import Restoring
from scorefield.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from scorefield.editing.operators import LinearOperator
    from scorefield.model import Model


@dataclass(frozen=True, kw_only=True)
class RestoreCommand(Restoring):
    """Restore pictures or data from what was measured of them: masked, shrunk, blurred, grey, projected or noisy."""

    operator: str
    """mask=M.png, downsample=4, blur=1.5 (pixels), grey, project=0.25 (the share that is measured), or denoise."""

    def _mask_file(self) -> str | None:
        name, _, parameter = self.operator.partition("=")
        return parameter if name == "mask" else None

    def _operator(self, model: Model) -> tuple[str, LinearOperator]:
        from scorefield.cli.pictures import read_mask
        from scorefield.editing.operators import OPERATORS, completed, operator_named
        from scorefield.model_restoration import hole

        name, _, parameter = self.operator.partition("=")
        if name == "mask":
            if not parameter:
                raise UsageError("--operator mask takes a picture whose white is to be filled: mask=M.png")
            return self.operator, hole(model.config.representation, read_mask(model, parameter, resize=self.resize))
        if name not in OPERATORS:
            raise unknown_name("operator", name, [*OPERATORS, "mask"])
        if name == "denoise" and self.noise == 0.0:
            raise UsageError("denoise needs the noise's standard deviation in the data's units, such as --noise 25")
        return completed(self.operator), operator_named(self.operator, model.config.shape)
