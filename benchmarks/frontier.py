r"""The sampling frontier: error against evaluations, every peer in every setting and scorefield's samplers, in one run.

Targets whose score is exact show the solver alone; trained networks (`--run`) are judged by their own probability flow.
Each problem's noise and its exact image are made once and stored; every sampler starts from that noise, its questions
are counted by a wrapper, and "the best peer" is the least error of any peer in any setting at that number of
evaluations, found in hindsight. diffusers is measured in this environment, azula and k-diffusion by `frontier_peers.py` in
`.venv-peers` where that exists (`make peers`). On networks a screening by 8 evaluations of a few noises chooses the settings that go on.

    python benchmarks/frontier.py --run runs/demo --threads 1
    python benchmarks/frontier.py --quick
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path as File
from statistics import fmean
from typing import Any

import frontier_diffusers
import frontier_ours
import torch
from frontier_measure import BUDGETS, Row, floors, survey, surveyed
from frontier_problems import CLOSED_FORMS, Problem, obtain

ROOT = File(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
QUICK_PROBLEMS, QUICK_BUDGETS = ("ring8-vp", "power256-edm"), (5, 10, 20)
OURS = "scorefield"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def problems(settings: argparse.Namespace) -> list[Problem]:
    """The closed forms that are wanted, and the networks."""
    found = [obtain(name, None, settings.cache, settings.noises, 400) for name in settings.targets]
    for entry in settings.run:
        name, _, run = entry.rpartition("=")
        folder = File(run)
        found.append(obtain(name or folder.name, str(folder), settings.cache, settings.network_noises, 160))
    return found


def measure(settings: argparse.Namespace, found: Sequence[Problem]) -> list[Row]:
    """All rows of all problems."""
    rows: list[Row] = []
    for problem in found:
        wanted = frontier_diffusers.SETTINGS
        if not settings.ours_only:
            rows += surveyed(
                "diffusers", problem, wanted, frontier_diffusers.run, settings.budgets, settings.cache, _report
            )
    rows += _other_peers(settings, found)
    chosen = [one for one in frontier_ours.SETTINGS if not settings.only or one.name in settings.only]
    for problem in found:
        if settings.stored:
            rows += json.loads((settings.cache / f"ours_{problem.name}.json").read_text())["rows"]
            continue
        ours = survey(OURS, problem, chosen, frontier_ours.run, settings.budgets, _report)
        (settings.cache / f"ours_{problem.name}.json").write_text(json.dumps({"rows": ours}))
        rows += ours
    return rows


def _other_peers(settings: argparse.Namespace, found: Sequence[Problem]) -> list[Row]:
    """What azula and k-diffusion do, measured by their own environment, or what is stored of it."""
    names = [problem.name for problem in found]
    if not PEERS_PYTHON.exists():
        _report("without azula and k-diffusion: make peers")
    elif not (settings.quick or settings.ours_only):
        script = [str(PEERS_PYTHON), str(ROOT / "benchmarks" / "frontier_peers.py"), *names]
        budgets = ["--budgets", *map(str, settings.budgets), "--threads", str(settings.threads)]
        subprocess.run([*script, "--folder", str(settings.cache), *budgets], check=True)
    libraries = ("diffusers", "azula", "k-diffusion") if settings.ours_only else ("azula", "k-diffusion")
    files = [settings.cache / f"peers_{library}_{name}.json" for library in libraries for name in names]
    digests = {problem.name: problem.digest for problem in found}
    stored = [json.loads(file.read_text()) for file in files if file.exists()]
    kept = [row for entry in stored for row in entry["rows"] if entry["mark"][0] == digests[row["problem"]]]
    return [row for row in kept if row["budget"] in settings.budgets]


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def best(rows: Iterable[Row], figure: str = "rmse") -> Row | None:
    """The row of the least figure."""
    return min((row for row in rows if row[figure] is not None), key=lambda row: row[figure], default=None)


def has_own_grid(row: Row) -> bool:
    """Whether its authors publish the grid: azula and k-diffusion take any, and are handed DPM-Solver's quadratic one too."""
    return row["library"] == "diffusers" or "quadratic" not in row["name"]


def at(rows: Sequence[Row], problem: str, budget: int, *, ours: bool, name: str | None = None) -> list[Row]:
    """The rows of a problem and budget, of ours or of the peers, that kept to the budget."""
    chosen = (
        row for row in rows if row["problem"] == problem and row["budget"] == budget and row["evaluations"] <= budget
    )
    return [row for row in chosen if (row["library"] == OURS) == ours and name in (None, row["name"])]


def table(problem: Problem, rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """Markdown: a line for each budget with the best peer, the best of diffusers, and ours."""
    floor = floors(problem)
    kind = "network, its own flow" if problem.is_network else "exact score"
    lines = [
        f"### {problem.name}",
        "",
        f"{kind}; {len(problem.x_T)} noises; images of rms {floor['rms']:.3g}; reference good to {floor['rmse']:.1g}.",
        "",
        "| evaluations | best peer | its RMSE | on a published grid | diffusers' best | ours, default | ours, uncalibrated | ours, best | its name | default / best peer |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_line(problem.name, rows, budget) for budget in _reached(problem, rows, budgets)), ""])


def _reached(problem: Problem, rows: Sequence[Row], budgets: Sequence[int]) -> list[int]:
    """The budgets at which anything was measured."""
    return [
        budget for budget in budgets if any(row["problem"] == problem.name and row["budget"] == budget for row in rows)
    ]


def _line(problem: str, rows: Sequence[Row], budget: int) -> str:
    peers = at(rows, problem, budget, ours=False)
    peer = best(peers)
    diffusers = best(row for row in peers if row["library"] == "diffusers")
    ours = best(at(rows, problem, budget, ours=True))
    defaults = [best(at(rows, problem, budget, ours=True, name=name)) for name in frontier_ours.DEFAULTS]
    ratio = f"{defaults[0]['rmse'] / peer['rmse']:.2f}" if defaults[0] and peer else "–"
    cells = [
        _name(peer),
        _with_error(peer),
        *map(_figure, (best(filter(has_own_grid, peers)), diffusers, *defaults, ours)),
        ours["name"] if ours else "–",
        ratio,
    ]
    return f"| {budget} | " + " | ".join(cells) + " |"


def _name(row: Row | None) -> str:
    return f"{row['library']} {row['name']}" if row else "–"


def _figure(row: Row | None) -> str:
    return f"{row['rmse']:.2g}" if row else "–"


def _with_error(row: Row | None) -> str:
    return f"{row['rmse']:.2g} ± {row['rmse_se']:.1g}" if row else "–"


def distribution_table(problem: Problem, rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """Markdown: the least sliced Wasserstein distance and covariance error of peers and ours, beside the floor."""
    floor = floors(problem)
    lines = [
        f"### {problem.name}, as a distribution",
        "",
        f"Floor of {len(problem.x_T)} exact draws: sliced Wasserstein {floor['sliced']:.2g} ± {floor['sliced_sd']:.1g}, covariance {floor['covariance']:.2g} ± {floor['covariance_sd']:.1g}.",
        "",
        "| evaluations | best peer, sliced | ours, sliced | best stochastic peer, sliced | best peer, covariance | ours, covariance |",
        "|---|---|---|---|---|---|",
    ]
    for budget in budgets:
        peers, ours = at(rows, problem.name, budget, ours=False), at(rows, problem.name, budget, ours=True)
        stochastic = [row for row in peers if not row["is_deterministic"]]
        cells = [
            _spread(part, figure)
            for part, figure in (
                (peers, "sliced"),
                (ours, "sliced"),
                (stochastic, "sliced"),
                (peers, "covariance"),
                (ours, "covariance"),
            )
        ]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _spread(rows: Sequence[Row], figure: str) -> str:
    row = best(rows, figure)
    return f"{row[figure]:.2g} ± {row[figure + '_sd']:.1g}" if row else "–"


def bars(found: Sequence[Problem], rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """Markdown: what there is to pass, one line a problem and three names."""
    lines = ["# The best peer in hindsight: RMSE, library and setting", ""]
    for problem in found:
        lines += [
            f"## {problem.name}  (rms {floors(problem)['rms']:.3g})",
            "",
            "| evaluations | RMSE | best | 2nd | 3rd | best on a published grid |",
            "|---|---|---|---|---|---|",
        ]
        for budget in _reached(problem, rows, budgets):
            ranked = sorted(
                (row for row in at(rows, problem.name, budget, ours=False) if row["rmse"] is not None),
                key=lambda row: row["rmse"],
            )
            published = [row for row in ranked if has_own_grid(row)]
            names = [f"{_name(row)} ({row['rmse']:.3g})" for row in [*ranked[:3], *published[:1]]]
            lines.append(f"| {budget} | {_with_error(ranked[0] if ranked else None)} | " + " | ".join(names) + " |")
        lines.append("")
    return "\n".join(lines)


def steady_table(found: Sequence[Problem], rows: Sequence[Row], budgets: Sequence[int]) -> str:
    """Markdown: single settings over all problems, by the geometric mean of their ratio to each problem's best peer."""
    lines = [
        "### One setting for everything",
        "",
        "Geometric mean, and in brackets the worst, of the ratio to each problem's best peer in hindsight.",
        "",
        "| evaluations | steadiest peer | 2nd | 3rd | ours, default | ours, steadiest |",
        "|---|---|---|---|---|---|",
    ]
    for budget in budgets:
        ranked = _ratios(found, rows, budget)
        ours = [entry for entry in ranked if entry[1].startswith(OURS)]
        default = [entry for entry in ours if entry[1] == f"{OURS} {frontier_ours.DEFAULTS[0]}"]
        peers = [entry for entry in ranked if entry not in ours]
        chosen = [next(iter(entries), None) for entries in (peers, peers[1:], peers[2:], default, ours)]
        cells = ["–" if entry is None else f"{entry[1]}: {entry[0]:.2f} ({entry[2]:.1f})" for entry in chosen]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _ratios(found: Sequence[Problem], rows: Sequence[Row], budget: int) -> list[tuple[float, str, float]]:
    """(geometric mean, name, worst) of every setting that was measured on all problems with any peer at this budget."""
    ratios: dict[str, list[float]] = {}
    bars = {problem.name: best(at(rows, problem.name, budget, ours=False)) for problem in found}
    reached = {name: row["rmse"] for name, row in bars.items() if row}
    for row in rows:
        kept = row["budget"] == budget and row["evaluations"] <= budget and row["rmse"] is not None
        if kept and row["problem"] in reached:
            ratios.setdefault(_name(row), []).append(row["rmse"] / reached[row["problem"]])
    complete = [
        (math.exp(fmean(map(math.log, values))), name, max(values))
        for name, values in ratios.items()
        if len(values) == len(reached)
    ]
    return sorted(complete)


# ── the picture ──────────────────────────────────────────────────────────────────────────────────────────────────────


def picture(found: Sequence[Problem], rows: Sequence[Row], budgets: Sequence[int], file: File) -> None:
    """Error against evaluations, both by logarithm, a panel for each problem."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(4, len(found))
    height = -(-len(found) // columns)
    figure, panels = plt.subplots(
        height, columns, figsize=(3.6 * columns, 3.0 * height), squeeze=False, layout="constrained"
    )
    for panel, problem in zip(panels.flat, found, strict=False):
        for label, style, points in _curves(problem.name, rows, budgets):
            panel.loglog([n for n, _ in points], [error for _, error in points], style, label=label, markersize=3)
        panel.set_title(problem.name, fontsize=9)
        panel.set_xticks(list(budgets), [str(budget) for budget in budgets], minor=False)
        panel.set_xticks([], minor=True)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in list(panels.flat)[len(found) :]:
        panel.set_visible(False)
    panels[0, 0].legend(fontsize=6)
    figure.supxlabel("evaluations")
    figure.supylabel("RMSE to the exact flow image")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _curves(
    problem: str, rows: Sequence[Row], budgets: Sequence[int]
) -> list[tuple[str, str, list[tuple[int, float]]]]:
    def curve(ours: bool, name: str | None = None, library: str | None = None) -> list[tuple[int, float]]:
        chosen = (
            (
                budget,
                best(
                    row for row in at(rows, problem, budget, ours=ours, name=name) if library in (None, row["library"])
                ),
            )
            for budget in budgets
        )
        return [(budget, row["rmse"]) for budget, row in chosen if row]

    curves = [
        ("best peer in hindsight", "k.-", curve(False)),
        ("diffusers' best in hindsight", "k.:", curve(False, library="diffusers")),
        ("diffusers' DPM++ 2M", "C7.--", curve(False, name="DPM++ 2M, linspace")),
        ("ours, best in hindsight", "C0.:", curve(True)),
        *((f"ours, {name}", f"C{i}.-", curve(True, name=name)) for i, name in enumerate(frontier_ours.DEFAULTS)),
    ]
    return [(label, style, points) for label, style, points in curves if points]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def parsed() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", action="append", default=[], metavar="[NAME=]DIR", help="a trained model; may be repeated"
    )
    parser.add_argument(
        "--targets", nargs="*", default=None, help=f"closed forms, of {', '.join(CLOSED_FORMS)}; all by default"
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=None)
    parser.add_argument("--noises", type=int, default=None, help="on closed forms; 256 by default")
    parser.add_argument("--network-noises", type=int, default=16)
    parser.add_argument("--cache", type=File, default=ROOT / "runs" / "frontier", help="references and peers' rows")
    parser.add_argument("--out", type=File, default=None, help="of frontier.json and frontier.md; the cache by default")
    parser.add_argument("--image", type=File, default=None, help="where the picture goes, if anywhere")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours-only", action="store_true", help="measure ours alone, beside the peers' stored rows")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="of ours, such as default uncalibrated")
    parser.add_argument("--stored", action="store_true", help="write the tables of what was measured before, ours too")
    parser.add_argument("--quick", action="store_true", help="two targets, diffusers alone, three budgets: a minute")
    settings = parser.parse_args()
    settings.ours_only |= settings.stored
    settings.targets = (
        list(QUICK_PROBLEMS if settings.quick else CLOSED_FORMS) if settings.targets is None else settings.targets
    )
    settings.budgets = settings.budgets or list(QUICK_BUDGETS if settings.quick else BUDGETS)
    settings.noises = settings.noises or (64 if settings.quick else 256)
    settings.cache = settings.cache / "quick" if settings.quick else settings.cache
    settings.out = settings.out or settings.cache
    return settings


def main() -> int:
    """Measure, print the tables, and write them, the rows and the picture."""
    settings = parsed()
    torch.set_num_threads(settings.threads)
    warnings.simplefilter("ignore")
    for folder in (settings.cache, settings.out):
        folder.mkdir(parents=True, exist_ok=True)
    found = problems(settings)
    rows = measure(settings, found)
    parts = [table(problem, rows, settings.budgets) for problem in found]
    parts += [distribution_table(problem, rows, settings.budgets) for problem in found if problem.draws is not None]
    parts.append(steady_table([problem for problem in found if not problem.is_network], rows, settings.budgets))
    text = "\n".join(parts)
    print(text)
    (settings.out / "frontier.md").write_text(text)
    (settings.out / "BARS.md").write_text(bars(found, rows, settings.budgets))
    (settings.out / "frontier.json").write_text(json.dumps(_record(settings, found, rows)))
    if settings.image is not None:
        picture(found, rows, settings.budgets, settings.image)
    return 0


def _record(settings: argparse.Namespace, found: Sequence[Problem], rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "versions": {name: version(name) for name in ("scorefield", "torch", "diffusers")}
        | {"python": platform.python_version()},
        "threads": settings.threads,
        "budgets": settings.budgets,
        "problems": {problem.name: {"noises": len(problem.x_T), "floors": floors(problem)} for problem in found},
        "rows": list(rows),
    }


if __name__ == "__main__":
    sys.exit(main())
