"""`scorefield edit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scorefield.cli.common import check_out, numbered_files, open_given, print_json, require_parent, say, write_each
from scorefield.cli.editing import (
    Editing,
    check_count,
    numbers_along,
    write_arrays,
    write_strip,
)
from scorefield.cli.guiding import Guidance
from scorefield.errors import UsageError
from scorefield.records import kind_of

if TYPE_CHECKING:
    import numpy as np

    from scorefield.editing.posterior import Method
    from scorefield.evaluation.distances import Estimate
    from scorefield.evaluation.edits import EditRow, Realism
    from scorefield.model import Model
    from scorefield.model_editing import Edited
    from scorefield.samplers import Sampler

_MOST_DATA = 10_000
_FEATURES = "features.safetensors"


@dataclass(frozen=True, kw_only=True)
class EditCommand(Editing):
    """Edit a drawing, a composite or a picture by SDEdit: noise it until strokes are lost and layout is not, and draw from there.

    Several strengths make a strip, a row each, and a table of how near to the guide the edits stay; with --data also of how near
    to the data they come. With a mask what is not white comes back bit by bit.
    """

    guide: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GUIDE")]
    """An image file, a .npy file, or any DATA with --index."""

    out: str
    """X.png (the guide, then the edits; a row a strength), X.npz, or a folder."""

    strength: str = "0.5"
    """How much may change: 0 is the guide itself, 1 nothing of it; several as 0.3,0.5 or FROM:TO:COUNT."""

    mask: str | None = None
    """An image or .npy file: white may change."""

    threshold: float | None = None
    """Mask values from it on are white; needed where there are more than two."""

    method: str | None = None
    """How what a mask keeps is joined to what changes: dps leaves no seam, for about three times the time; put in its place without it."""

    repeats: int = 1
    """How often the result is noised and drawn again."""

    count: Annotated[int, tyro.conf.arg(name="n", aliases=("-n",))] = 4
    """Edits of each strength."""

    index: int | None = None
    """Which example of DATA."""

    resize: bool = False
    """Bring pictures of another size to the model's."""

    bent: Annotated[Guidance, tyro.conf.OmitArgPrefixes] = field(default_factory=Guidance)
    """How the edits are guided."""

    data: str | None = None
    """Data of the kind that the model was trained on: measures how near to them the edits come (at most 10,000 are used)."""

    table: str | None = None
    """A .csv file for the figures."""

    plot: str | None = None
    """An .svg file: faithfulness over strength, or with --data realism over faithfulness."""

    def run(self) -> int:
        """Read, edit, measure, write."""
        strengths = numbers_along(self.strength, "--strength")
        self._check()
        model = self._loaded()
        from scorefield.cli.pictures import read_example, read_mask
        from scorefield.editing.sdedit import editor

        guide, _ = read_example(model, self.model, self.guide, self.index, self.resize)
        mask = None
        if self.mask is not None:
            mask = read_mask(model, self.mask, resize=self.resize, threshold=self.threshold)
            if not mask.any():
                raise UsageError(
                    f"mask {self.mask} is black everywhere, so that nothing may change; make white what may"
                )
        told = self._told(model)
        model = self.bent.guided(model, self.model, has_label=any(value is not None for value in told.values()))
        sampler = self._chosen(editor(model.config.path))
        sampler.times(model.config.path)  # what does not fit the model is refused before anything is drawn
        realism = self._realism(model)
        found = [self._edited(model, guide, strength, mask, sampler, told) for strength in strengths]
        self._write(model, guide, strengths, found)
        rows = self._measured(model, guide, strengths, found, realism)
        say(f"edited into {self.out}")
        if self.json:
            print_json(self._result(sampler, found, rows, realism))
        return 0

    def _check(self) -> None:
        check_count(self.count)
        check_out(self.out, (".png", ".npz", ""), self.guide, self.mask, self.data)
        if self.mask is None and self.threshold is not None:
            raise UsageError("--threshold says where a mask is white; give one with --mask")
        if self.mask is None and self.method is not None:
            raise UsageError("--method joins what a mask keeps to what changes; give one with --mask")
        self._joined()
        for option, path, suffix in (("--table", self.table, ".csv"), ("--plot", self.plot, ".svg")):
            if path is not None and not path.lower().endswith(suffix):
                raise UsageError(f"{option} {path}: it is written as {suffix}; name a file that ends so")
            if path is not None:
                require_parent(path)

    def _edited(
        self,
        model: Model,
        guide: np.ndarray,
        strength: float,
        mask: np.ndarray | None,
        sampler: Sampler,
        told: dict[str, Any],
    ) -> Edited:
        from scorefield.model_editing import edit

        options: dict[str, Any] = {
            "mask": mask,
            "method": self._joined(),
            "repeats": self.repeats,
            "count": self.count,
            "sampler": sampler,
        }
        return edit(model, guide, strength, seed=self.seed, batch=self.batch, **options, **told)

    def _joined(self) -> Method | None:
        """The method of `--method`. Raises UsageError."""
        if self.method is None:
            return None
        from scorefield.editing.methods import METHODS
        from scorefield.records import by_kind

        return by_kind(METHODS, self.method.replace("-", "").replace("_", ""), "method")()

    def _write(self, model: Model, guide: np.ndarray, strengths: Sequence[float], found: Sequence[Edited]) -> None:
        import numpy as np

        extension = os.path.splitext(self.out)[1].lower()
        samples = np.concatenate([each.samples for each in found])
        if extension == ".png":
            write_strip(self.out, model, [np.concatenate([guide[None], each.samples]) for each in found])
        elif extension == ".npz":
            of_each = np.repeat(np.array(strengths), self.count)
            seeds = np.full(len(samples), self.seed, dtype=np.int64)
            write_arrays(self.out, {"samples": samples, "seeds": seeds, "strengths": of_each, "guide": guide})
        else:
            write_each(self.out, numbered_files(samples, model.config.representation))

    # ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _measured(
        self,
        model: Model,
        guide: np.ndarray,
        strengths: Sequence[float],
        found: Sequence[Edited],
        realism: Realism | None,
    ) -> list[EditRow]:
        """The figures, printed and written."""
        import torch

        from scorefield.evaluation.edits import EditRow, edit_chart, edit_csv, edit_table, faithfulness
        from scorefield.storage import write_bytes

        guide_x = torch.from_numpy(model.config.representation.channels_first(guide[None]))
        rows: list[EditRow] = []
        for strength, each in zip(strengths, found, strict=True):
            x = torch.from_numpy(model.config.representation.channels_first(each.samples))
            rows.append(EditRow(strength, faithfulness(x, guide_x[0]), None if realism is None else realism.of(x)))
        of_guide: Estimate | None = None if realism is None else realism.of(guide_x)
        print(edit_table(rows, realism, of_guide))
        if self.table is not None:
            write_bytes(self.table, edit_csv(rows, realism).encode())
        if self.plot is not None:
            write_bytes(self.plot, edit_chart(rows, realism).encode())
        return rows

    def _realism(self, model: Model) -> Realism | None:
        """Features of the data; None without data. Raises UsageError."""
        if self.data is None:
            return None
        import numpy as np
        import torch

        from scorefield.evaluation.edits import Realism

        dataset = open_given(self.model, self.data)
        if dataset.shape != model.config.representation.shape:
            raise UsageError(
                f"--data {self.data} is of shape {dataset.shape}, the model's data are of {model.config.representation.shape}; give data of the model's kind"
            )
        indices = np.sort(np.random.default_rng(0).permutation(len(dataset))[:_MOST_DATA])
        labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[indices])
        cache = Path(self.model, _FEATURES) if len(dataset.shape) > 1 and os.access(self.model, os.W_OK) else None
        if cache is not None:
            say(f"features of {len(indices)} examples: those in {cache}, fitted first where they are of other data")
        return Realism(torch.from_numpy(dataset.batch(indices)), labels, 0, cache)

    def _result(
        self, sampler: Sampler, found: Sequence[Edited], rows: Sequence[EditRow], realism: Realism | None
    ) -> dict[str, Any]:
        return {
            "out": self.out,
            "count": self.count,
            "seed": self.seed,
            "sampler": kind_of(type(sampler)),
            "steps": sampler.steps,
            "repeats": self.repeats,
            "rows": [
                {
                    "strength": row.strength,
                    "evaluations": each.evaluations,
                    "faithfulness": row.faithfulness.value,
                    "realism": None if row.realism is None else row.realism.value,
                }
                for row, each in zip(rows, found, strict=True)
            ],
            "realism_of_data": None if realism is None else realism.floor.value,
        }
