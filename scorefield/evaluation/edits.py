"""How good edits are: how near to their guide, and how near to the data  (Meng et al. 2022, section 5: faithfulness and realism).

faithfulness  √(‖x − x_g‖²/D), the root mean squared difference to the guide, in the data's own unit
realism       the distance of an edit's features to the nearest of the data's; the same of other data is the floor

Both fall with what is wanted; a stronger edit is less faithful and more real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from scorefield.errors import UsageError
from scorefield.evaluation.distances import Estimate, mean_estimate, nearest
from scorefield.evaluation.features import Features, fit_features
from scorefield.shapes import Int

_FLOOR_SHARE = 10
_LEAST = 20


@final
@dataclass(frozen=True)
class EditRow:
    """The figures of the edits of one strength."""

    strength: float
    faithfulness: Estimate
    realism: Estimate | None


@final
class Realism:
    """The data's features, prepared once.

    Attributes:
        floor: the distance of data that are left out to the nearest of the others.
    """

    def __init__(
        self, data: Tensor, labels: Int[Tensor, " n"] | None = None, seed: int = 0, cache: Path | None = None
    ) -> None:
        """Fit features on the data (n, …) of any dtype, all but a tenth, which the floor is measured with; or take those of `cache`.

        Raises:
            UsageError: too few data.
        """
        if len(data) < _LEAST:
            raise UsageError(f"realism is measured against at least {_LEAST} examples, got {len(data)}; give more data")
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        held, kept = order[: len(data) // _FLOOR_SHARE], order[len(data) // _FLOOR_SHARE :]
        self.extractor: Features = fit_features(
            data[kept], None if labels is None else labels[kept], seed=seed, cache=cache
        )
        self.features = self.extractor.features(data[kept])
        self.floor = self.of(data[held])

    def of(self, x: Tensor) -> Estimate:
        """The mean distance of x's features to the nearest of the data's."""
        return mean_estimate(nearest(self.extractor.features(x), self.features).distance)


def faithfulness(x: Tensor, guide: Tensor) -> Estimate:
    """The mean over edits (n, …) of the root mean squared difference to the guide (…)."""
    return mean_estimate((x.double() - guide.double()).flatten(1).square().mean(1).sqrt())


def edit_table(rows: Sequence[EditRow], realism: Realism | None, of_guide: Estimate | None) -> str:
    """The figures as text: a line a strength, the guide's own above and the data's below."""
    lines = [f"{'strength':>10}  {'faithfulness':>16}" + (f"  {'realism':>16}" if realism else "")]
    if realism is not None and of_guide is not None:
        lines.append(f"{'guide':>10}  {0.0:>16.4g}  {of_guide.value:>16.4g}")
    lines += [
        f"{row.strength:>10.3f}  {row.faithfulness!s:>16}" + (f"  {row.realism!s:>16}" if realism else "")
        for row in rows
    ]
    if realism is not None:
        lines.append(f"{'data':>10}  {'–':>16}  {realism.floor!s:>16}")
    return "\n".join(lines)


def edit_csv(rows: Sequence[EditRow], realism: Realism | None) -> str:
    """The figures as CSV; the last row is the floor."""
    lines = ["strength,faithfulness,faithfulness_se,realism,realism_se"]
    for row in rows:
        real = "," if row.realism is None else f"{row.realism.value:.8g},{row.realism.standard_error:.4g}"
        lines.append(f"{row.strength:.6g},{row.faithfulness.value:.8g},{row.faithfulness.standard_error:.4g},{real}")
    if realism is not None:
        lines.append(f"data,,,{realism.floor.value:.8g},{realism.floor.standard_error:.4g}")
    return "\n".join(lines) + "\n"


def edit_chart(rows: Sequence[EditRow], realism: Realism | None) -> str:
    """Faithfulness over strength; with data the trade of realism for it, as SVG."""
    from scorefield.evaluation.charts import Series, line_chart

    faithful = [row.faithfulness.value for row in rows]
    if realism is None:
        curves = [Series("faithfulness", [row.strength for row in rows], faithful)]
        return line_chart(
            curves, title="faithfulness over strength", x_label="strength", y_label="difference to the guide"
        )
    real = [row.realism.value for row in rows if row.realism is not None]
    ends = (min(faithful), max(faithful))
    return line_chart(
        [Series("edits", faithful, real), Series("data", ends, (realism.floor.value,) * 2, faint=True)],
        title="realism over faithfulness",
        x_label="difference to the guide",
        y_label="distance to the data's features",
    )
