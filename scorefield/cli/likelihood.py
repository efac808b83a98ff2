"""`scorefield likelihood`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scorefield.cli.common import Command, load_model, print_json, require_parent, say, set_threads
from scorefield.cli.held_out import HeldOut, held_out
from scorefield.errors import UsageError

if TYPE_CHECKING:
    from scorefield.likelihood import Measured, Method


@dataclass(frozen=True)
class LikelihoodCommand(Command):
    """Measure the likelihood of data in bits per dimension, with error bars: by the variational bound or by the probability flow.

    The bound is of the model that draws by the reverse chain or SDE, the flow's density of the one that draws by the probability
    flow: two models with one network, whose figures do not bound each other. Neither is guided. Where DATA have labels and the
    model has classes, p(x|y) is measured; where it is conditioned on numbers, p(x|c).
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's or model's folder."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Data of the kind that the model was trained on, best held out."""

    method: Literal["bound", "flow"] = "bound"
    """The variational bound, or the probability flow's density."""

    count: Annotated[int | None, tyro.conf.arg(name="n", aliases=("-n",))] = 500
    """How many examples, drawn by the seed; 0 for all."""

    repeats: int = 2
    """How often each example is measured, with noise of its own: what the error over the noise is found from."""

    terms: int | None = None
    """Bound: at how many steps or noise levels an example is asked; all of a chain, and 32 in continuous time, without it."""

    steps: int | None = None
    """Bound: of so many steps, for a model in continuous time."""

    variance: Literal["small", "large", "learned"] | None = None
    """Bound: of a chain's steps; learned where it is, else small, without it."""

    end: str = "auto"
    """The log(α/σ) at which the decoder takes over (bound) or the data enter the flow; auto judges it on a few examples."""

    tolerance: float = 1e-4
    """Flow: of a step, in bits per dimension."""

    probes: int | None = None
    """Flow: of the trace; 0 for the exact trace; exact up to 256 dimensions and 4 beyond without it."""

    dequantisation: Literal["uniform", "truncated-normal", "variational", "none"] | None = None
    """Flow: how integers become points; truncated-normal without it."""

    importance: int = 1
    """Flow: how many points stand for an example; more come nearer to the likelihood."""

    float64: bool = False
    """Let the network compute in 64 bits."""

    unconditional: bool = False
    """Measure p(x) under a model of classes or conditions that was trained with some of them dropped."""

    condition: str | None = None
    """FILE.npy with the condition of each example, one row each, where it is no column of DATA."""

    per_sample: str | None = None
    """A .csv file for each example's figure: to find what does not belong."""

    plot: str | None = None
    """Bound: an .svg file for its terms over the noise."""

    seed: int = 0
    """Seed of the noise and of the choice of examples."""

    batch: int = 256
    """How many rows the network is asked at once."""

    threads: int | None = None
    """Processor threads."""

    device: str | None = None
    """cpu, cuda, cuda:1; a GPU where there is one."""

    json: bool = False
    """End standard output with one JSON object."""

    def run(self) -> int:
        """Measure, print, write."""
        self._check()
        set_threads(self.threads)
        from scorefield.storage import write_bytes

        method = self._method()
        model = load_model(self.model, self.device, calibrated=False)
        chosen = held_out(model, self.model, self.data, self.count, self.seed, self.unconditional, self.condition)
        say(f"measuring {chosen.what} of {len(chosen.x)} examples")
        found = chosen.measured(
            model,
            method,
            seed=self.seed,
            repeats=self.repeats,
            batch=self.batch,
            float64=self.float64,
            progress=_progress(len(chosen.x)),
        )
        print(_table(found, chosen))
        if self.per_sample is not None:
            write_bytes(self.per_sample, _rows(found, chosen).encode())
        if self.plot is not None:
            write_bytes(self.plot, _chart(found).encode())
        if self.json:
            print_json({"model": self.model, "data": self.data, "of": chosen.what, **found.as_json()})
        return 0

    def _check(self) -> None:
        if (self.count or 0) < 0 or self.batch < 1 or self.repeats < 1:
            raise UsageError(
                f"a likelihood needs -n ≥ 0, --repeats ≥ 1 and --batch ≥ 1, got {self.count}, {self.repeats} and {self.batch}"
            )
        for option, path, suffix in (("--per-sample", self.per_sample, ".csv"), ("--plot", self.plot, ".svg")):
            if path is not None and not path.lower().endswith(suffix):
                raise UsageError(f"{option} {path}: it is written as {suffix}; name a file that ends so")
            if path is not None:
                require_parent(path)
        own: dict[str, dict[str, object]] = {
            "bound": {"--terms": self.terms, "--steps": self.steps, "--variance": self.variance, "--plot": self.plot},
            "flow": {"--probes": self.probes, "--dequantisation": self.dequantisation},
        }
        other = "flow" if self.method == "bound" else "bound"
        wrong = [name for name, value in own[other].items() if value is not None]
        if wrong:
            raise UsageError(f"{wrong[0]} belongs to --method {other}; leave it out, or ask for that method")

    def _method(self) -> Method:
        from scorefield.likelihood import FlowLikelihood, VariationalBound

        end = _end(self.end)
        if self.method == "bound":
            return VariationalBound(self.terms, self.steps, self.variance, end)
        return FlowLikelihood(self.tolerance, self.probes, self.dequantisation, self.importance, end)


def _end(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--end takes auto or a log(α/σ) such as 4.5, got '{text}'") from None


def _progress(count: int) -> Any:
    """A line on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    return lambda done: print(f"\r{done}/{count}", end="\n" if done == count else "", file=sys.stderr, flush=True)


def _table(found: Measured, chosen: HeldOut) -> str:
    """The figures for people."""
    settings = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.settings.items()
    )
    errors = [
        f"± {error:.4f} over the {of}"
        for error, of in ((found.standard_error, "data"), (found.noise_error, "noise"))
        if error is not None
    ]
    rows = [("of", chosen.what), ("method", f"{found.method} ({settings})")]
    rows += [(_TERMS.get(name, name), f"{value:.4f} bits/dim") for name, value in found.terms.items()]
    rows.append(("bits/dim", f"{found.value:.4f}  {', '.join(errors)}"))
    rows.append(("nats", f"{float(found.nats.mean()):.4f} an example of {found.dimension} values"))
    rows.append(("evaluations", f"{found.evaluations[0]:.1f} an example, at most {found.evaluations[1]:.0f}"))
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


_TERMS = {"prior": "prior L_T", "steps": "steps L_t", "decoder": "decoder L_0"}


def _rows(found: Measured, chosen: HeldOut) -> str:
    """A row for each example."""
    noise = found.per_sample_noise
    errors = [""] * len(found.nats) if noise is None else [f"{error:.8g}" for error in noise.tolist()]
    rows = zip(chosen.indices.tolist(), found.per_sample.tolist(), errors, chosen.class_names, strict=True)
    body = (f"{index},{bits:.8g},{error},{name}" for index, bits, error, name in rows)
    return "\n".join(["index,bits_per_dim,noise_se,class", *body]) + "\n"


def _chart(found: Measured) -> str:
    from scorefield.evaluation.charts import Series, line_chart

    profile = found.profile
    if profile is None:
        raise UsageError("only a bound has terms to draw; leave --plot out")
    total = found.nats.numel()
    bits = [found.bits(nats / total) for nats in profile.nats.tolist()]
    shown = [(x, y) for x, y in zip(profile.log_snr.tolist(), bits, strict=True) if y > 0.0]
    return line_chart(
        [Series("L_t", [x for x, _ in shown], [y for _, y in shown])],
        title="the bound's terms over the noise",
        x_label="log(α/σ)",
        y_label="bits/dim",
        log_y=True,
    )
