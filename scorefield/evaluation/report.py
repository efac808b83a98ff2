"""The report of a run: one HTML page that needs no network, no script and no other file.

Every word that comes from a file or a name is escaped, and the page's own policy forbids scripts and foreign addresses,
so a run of unknown origin can be read safely.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from scorefield.evaluation.charts import Series, bar_chart, line_chart
from scorefield.evaluation.evaluate import Evaluation
from scorefield.evaluation.records import RunRecord, flattened, numbers

BETTER = {"low": "lower is better", "high": "higher is better", "floor": "best near the floor"}
LONGEST = 12
DATA_FIRST = (
    "name",
    "source",
    "count",
    "shape",
    "dtype",
    "classes",
    "class_names",
    "duplicates",
    "skipped",
    "mean",
    "std",
)
SETTINGS_FIRST = (
    "steps",
    "minutes",
    "batch",
    "seed",
    "kind",
    "learning_rate",
    "warmup",
    "decay",
    "threads",
    "processes",
)
MODEL_FIRST = ("preset", "kind", "widths", "depths", "shape", "sigma_min", "sigma_max", "sigma_data")
_WORDS = {"None": "–", "True": "yes", "False": "no", "{}": "–"}

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #5d6773; --line: #dfe3e8; --card: #f6f7f9; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #98a2ae; --line: #30363e; --card: #1b2027; --paper: #12161b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 2.6rem 0 .8rem; font-size: 1.2rem; }
p { margin: .4rem 0 1rem; max-width: 46rem; }
.lead, figcaption, .note, footer { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem;
  margin: 1.4rem 0 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem .9rem; }
.figures dt { font-size: .82rem; color: var(--soft); }
.figures dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; image-rendering: pixelated; border: 1px solid var(--line); border-radius:
.6rem; } figcaption { font-size: .88rem; margin-top: .4rem; } .chart { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric:
tabular-nums; } th, td { text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line);
vertical-align: top; } thead th { color: var(--soft); font-weight: 500; } tbody th { font-weight: 400; } td.number,
th.number { text-align: right; white-space: nowrap; } td { overflow-wrap: anywhere; } code, .code { font-family:
ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .86rem; } details summary { cursor: pointer; color:
var(--soft); } footer { margin-top: 3rem; font-size: .85rem; border-top: 1px solid var(--line); padding-top: 1rem; }
"""


def report_html(run: Path) -> str:
    """The page that says what was trained, how, and how good it is.

    Shows what is in the folder (config.json, log.jsonl, timing.jsonl, data.json, samples/, film.gif, evaluation.json)
    and leaves out what is not.

    Raises:
        UsageError: there is no such folder.
    """
    record = RunRecord.of(run)
    name = run.resolve().name
    sections = [
        f"<header><h1>{escape(name)}</h1><p class=lead>{escape(_sentence(record))}</p>{_figures(record)}</header>",
        _section("Samples", _pictures(record)),
        _section("Quality", _quality(record.evaluation)),
        _section("Training", _pair(*_loss_charts(record), *_speed_chart(record))),
        _section("Data", _leaves(record.data, first=DATA_FIRST)),
        _section("Training settings", _leaves(record.settings, first=SETTINGS_FIRST)),
        _section("Model", _leaves(record.configuration, first=MODEL_FIRST)),
    ]
    return _page(name, "".join(sections))


def _page(name: str, body: str) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · scorefield</title><style>{STYLE}</style></head>"
    )
    foot = "<footer>Written by scorefield. This file is complete in itself and loads nothing.</footer>"
    return f"{head}<body><main>{body}</main>{foot}</body></html>\n"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


# ------------------------------------------------------------------------------------------------------- the summary


def _sentence(record: RunRecord) -> str:
    """What was trained, in words."""
    leaves = dict(flattened(record.configuration))
    preset = _first(leaves, "preset")
    parts = ["A score model", f"of the preset “{preset}”" if preset is not None else ""]
    source = (
        _first(leaves, "source", "name", "path") if not record.data else _first(record.data, "source", "name", "path")
    )
    parts.append(f"trained on {source}" if isinstance(source, str) else "")
    words = " ".join(filter(None, parts))
    if not record.steps:
        return f"{words}. No step has been logged yet."
    seen = f", {_count(record.examples)} examples seen" if record.examples else ""
    took = f", in {_duration(record.seconds)}" if record.seconds else ""
    return f"{words}: {_count(record.steps)} steps{seen}{took}."


def _first(leaves: Mapping[str, Any], *names: str) -> Any:
    """The value of the first name that a key is, or ends with after a dot."""
    found = (leaves[key] for name in names for key in leaves if key == name or key.endswith(f".{name}"))
    return next((value for value in found if value is not None), None)


def _figures(record: RunRecord) -> str:
    loss = _smoothed(numbers(record.log, "loss"))
    speed = record.examples / record.seconds if record.examples and record.seconds else None
    entries = [
        ("Steps", _count(record.steps) if record.steps else None),
        ("Examples seen", _count(record.examples)),
        ("Training time", _duration(record.seconds)),
        ("Examples a second", _count(round(speed)) if speed else None),
        ("Parameters", _count(record.parameters)),
        ("Loss, smoothed", f"{loss[-1]:.4g}" if loss and math.isfinite(loss[-1]) else None),
    ]
    if record.evaluation is not None:
        entries += [(f.measure.title, f"{f.value.value:.3g}") for f in record.evaluation.figures if f.name == "frechet"]
    boxes = [f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries if value]
    return f"<dl class=figures>{''.join(boxes)}</dl>" if boxes else ""


def _count(value: int | None) -> str | None:
    if value is None:
        return None
    return f"{value:,}".replace(",", "\u202f") if value < 1_000_000 else f"{value / 1e6:.3g} M"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ------------------------------------------------------------------------------------------------------ the sections


def _pictures(record: RunRecord) -> str:
    figures = [
        (_image(record.samples, "image/png", "Samples drawn from the model, in a grid"), "Drawn from the model"),
        (_image(record.film, "image/gif", "Film of noise becoming samples"), "From noise to samples"),
    ]
    return _pair(*(figure for figure in figures if figure[0]))


def _image(picture: bytes | None, kind: str, alternative: str) -> str:
    if picture is None:
        return ""
    return f'<img alt="{alternative}" src="data:{kind};base64,{base64.b64encode(picture).decode()}">'


def _quality(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return ""
    rows = [
        (f.measure.title, str(f.value), str(f.floor) if f.floor else "–", BETTER[f.measure.better])
        for f in evaluation.figures
    ]
    note = (
        f"{_count(evaluation.samples)} samples against {_count(evaluation.reference)} training examples; "
        f"features: {evaluation.features}. The floor is what held-out data get"
        + (f" ({_count(evaluation.held_out)} at a time)." if evaluation.held_out else "; none were given.")
    )
    return f"<p class=note>{escape(note)}</p>" + _table(("Figure", "Samples", "Floor", ""), rows, numeric=(1, 2))


def _loss_charts(record: RunRecord) -> Iterator[tuple[str, str]]:
    steps, loss = numbers(record.log, "step"), numbers(record.log, "loss")
    if not any(map(math.isfinite, loss)):
        return
    curves = [Series("each step logged", steps, loss, faint=True), Series("smoothed", steps, _smoothed(loss))]
    positive = min(filter(math.isfinite, loss)) > 0
    yield line_chart(curves, title="Loss", x_label="step", y_label="loss", log_y=positive), "Loss over training"
    bins = _loss_by_noise(record.log)
    if bins:
        names = [str(i + 1) for i in range(len(bins))]
        label = "noise level, from the least to the most"
        bars = bar_chart(names, bins, title="Loss by noise level", x_label=label, y_label="loss")
        yield bars, "Loss by noise level, over the last tenth of training"


def _speed_chart(record: RunRecord) -> Iterator[tuple[str, str]]:
    steps, speed = numbers(record.timing, "step"), numbers(record.timing, "examples_per_second")
    if any(map(math.isfinite, speed)):
        curve = Series("examples a second", steps, speed)
        chart = line_chart([curve], title="Training speed", x_label="step", y_label="examples a second", from_zero=True)
        yield chart, "Training speed"


def _pair(*figures: tuple[str, str]) -> str:
    """Figures with their captions, two beside each other where there is room."""
    if not figures:
        return ""
    drawn = (f"<figure>{content}<figcaption>{caption}</figcaption></figure>" for content, caption in figures)
    return f"<div class=pair>{''.join(drawn)}</div>"


def _loss_by_noise(log: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The mean loss in every bin of noise level over the last tenth of the rows; None where a bin stayed empty."""
    rows = [row["loss_by_noise"] for row in log if isinstance(row.get("loss_by_noise"), list)]
    recent = rows[-max(1, len(rows) // 10) :]
    if not recent:
        return []
    columns = zip(*(row for row in recent if len(row) == len(recent[-1])), strict=True)
    return [_mean([value for value in column if isinstance(value, int | float)]) for column in columns]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean over a twentieth of the curve, its start unbiased; NaN values are passed over."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    total = weight = 0.0
    smooth = []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1.0
        smooth.append(total / weight if weight else math.nan)
    return smooth


def _leaves(tree: Mapping[str, Any], first: Sequence[str]) -> str:
    """A table of the entries whose last name is in `first`, the others folded away; of all, where they are few."""
    leaves = [(key, _shown(value)) for key, value in flattened(tree)]
    head = [leaf for leaf in leaves if len(leaves) <= LONGEST or leaf[0].rpartition(".")[2] in first]
    rest = [leaf for leaf in leaves if leaf not in head]
    shown = _table(("Setting", "Value"), head) if head else ""
    if not rest:
        return shown
    return f"{shown}<details><summary>{len(rest)} more</summary>{_table(('Setting', 'Value'), rest)}</details>"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_shown(each) for each in value[:LONGEST])
        return shown if len(value) <= LONGEST else f"{shown}, … ({len(value)} in all)"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _WORDS.get(str(value), str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    def cell(tag: str, i: int, words: str) -> str:
        kind = " class=number" if i in numeric else ""
        scope = ' scope="row"' if tag == "th" and i == 0 else ""
        return f"<{tag}{kind}{scope}>{escape(words)}</{tag}>"

    top = "".join(cell("td" if not words else "th", i, words) for i, words in enumerate(head))
    body = "".join(
        f"<tr>{''.join(cell('td' if i else 'th', i, words) for i, words in enumerate(row))}</tr>" for row in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
