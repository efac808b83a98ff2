"""What a training run is asked to be: one frozen record, checked before anything is loaded, built or written.

Presets are whole papers; the default is what measures best. Every value can be set by its dotted name, as in
`--set optimiser.learning_rate=1e-3` or `--set path=vp`.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scorefield.denoisers.parameterisations import Energy, Noise, Parameterisation, Preconditioned, RectifiedVelocity
from scorefield.errors import UsageError, unknown_name
from scorefield.model_config import KINDS, NetworkSpec, require_buildable, with_objective_kind
from scorefield.networks.specs import UNetSpec
from scorefield.objectives import (
    Denoising,
    EDMWeighting,
    FiniteDifferenceSliced,
    FlowWeighting,
    Hybrid,
    LogitNormal,
    LogNormal,
    LogUniform,
    NoiseLevels,
    Objective,
    Simple,
)
from scorefield.paths import EDM, VE, VP, Discrete, Path, Rectified, SubVP
from scorefield.records import by_kind, field_types, from_plain, to_plain
from scorefield.samplers import (
    Ancestral,
    AnnealedLangevin,
    Calibrated,
    EulerMaruyama,
    Heun,
    Linear,
    PredictorCorrector,
    Sampler,
)
from scorefield.training.options import AverageConfig, DataConfig, OptimiserConfig, require

_LONGEST_VALUE = 100_000

EDM_SIGMA_DATA = 0.5
"""The σ_data that EDM's noise levels are meant for (Karras et al. 2022, table 1)."""


@dataclass(frozen=True)
class RunConfig:
    """A training run.

    Attributes:
        preset: the preset it started from.
        data: how the data are read.
        path, parameterisation, network, objective: the score model and how it is fitted; a network of None is chosen by shape.
        measure: whether noise levels are measured in the data's own: σ_data is then theirs, and the levels of the path EDM and
            of the law LogNormal, which are meant for data of σ_data = 0.5, are scaled with it. On the path VE the law NoiseLevels gets
            NCSNv2's choices: σ_max, how many levels, and as many steps of AnnealedLangevin.
        show_levels: whether a U-Net is shown which of their values the data can have: waves of the data's spacing become periods of
            its input, for likelihoods. Only for data of finitely many values and a preconditioned network.
        centre: whether the model is given the mean of the data, so that its network predicts what is centred.
        optimiser, average: how the weights move, and which average of them is kept.
        sampler: what `scorefield sample` uses unless told otherwise.
        guidance: scale of the classifier-free guidance that samples are drawn with where there are classes; 1 is none.
        clip: whether the denoiser is held within the range of integer data when it is sampled.
        batch: samples a step, over all processes; None is 64, or 512 for points (D,).
        accumulate: micro-batches a step in each process.
        label_dropout: share of the samples trained without their label, for classifier-free guidance.
        precision: `float32`, `bfloat16` or `auto`: bfloat16 where a GPU has it, and on a processor that is faster with it if the run
            is timed by `minutes`; a run of `steps` computes in float32 there.
        compile: whether the network is compiled; pays on long runs.
        seed: of everything random.
        steps, minutes: when to stop; `minutes` counts training time over all resumptions and wins where both are given.
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
        previews: how many grids of samples are drawn on the way.
        calibrate: whether `scorefield train` ends with a calibration, where the sampler is `Calibrated`.
        tensorboard: whether the log goes to TensorBoard too, in the run's folder `tensorboard` (extra `track`).
    """

    preset: str = "default"
    data: DataConfig = field(default_factory=DataConfig)
    path: Path = field(default_factory=lambda: EDM(sigma_max=40.0))
    parameterisation: Parameterisation = field(default_factory=Preconditioned)
    network: NetworkSpec | None = None
    objective: Objective = field(default_factory=lambda: Denoising(EDMWeighting(), LogNormal(mean=-0.8)))
    measure: bool = True
    show_levels: bool = False
    centre: bool = True
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    average: AverageConfig = field(default_factory=AverageConfig)
    sampler: Sampler = field(default_factory=lambda: Calibrated(steps=15))
    guidance: float = 1.75
    clip: bool = False
    batch: int | None = None
    accumulate: int = 1
    label_dropout: float = 0.1
    precision: str = "auto"
    compile: bool = False
    seed: int = 0
    steps: int = 10_000
    minutes: float | None = None
    save_every: int = 500
    log_every: int = 10
    previews: int = 4
    tensorboard: bool = False
    calibrate: bool = True

    def __post_init__(self) -> None:
        if self.network is not None:
            require_buildable(self.network, (1,))  # the least it can be: the data's shape is not known yet
        if self.parameterisation.label != "log-sigma":
            raise UsageError(
                "parameterisation.label=time tells a network steps from 0 to 999, which scorefield's own cannot tell apart: their labels are of order one; leave it at log-sigma"
            )
        self.objective.require_fit(self.path, self.parameterisation)
        self._check_derivatives()
        if getattr(self.sampler, "variance", None) == "learned" and not self.parameterisation.learned_variance:
            raise UsageError(
                "the sampler asks for a learned variance, and the parameterisation has none; set sampler.variance=small or parameterisation.learned_variance=true"
            )
        # What could not be drawn from is refused now, not at the first preview.
        self.parameterisation.coefficients(self.path, self.path.t_max)
        self.sampler.times(self.path)
        require(self.batch is None or 1 <= self.batch <= 2**20, "batch", "between 1 and 1048576", self.batch)
        require(1 <= self.accumulate <= 2**20, "accumulate", "at least 1", self.accumulate)
        require(0.0 <= self.label_dropout <= 1.0, "label_dropout", "between 0 and 1", self.label_dropout)
        require(
            self.precision in ("auto", "float32", "bfloat16"), "precision", "auto, float32 or bfloat16", self.precision
        )
        require(0 <= self.seed < 2**63, "seed", "between 0 and 2**63 − 1", self.seed)
        require(1 <= self.steps <= 10**12, "steps", "at least 1", self.steps)
        require(self.minutes is None or 0.0 < self.minutes <= 1e7, "minutes", "a positive number", self.minutes)
        require(self.save_every >= 1, "save_every", "at least 1", self.save_every)
        require(self.log_every >= 1, "log_every", "at least 1", self.log_every)
        require(0 <= self.previews <= 10_000, "previews", "between 0 and 10000", self.previews)

    def _check_derivatives(self) -> None:
        """Refuse what an objective or an energy that differentiates the network cannot be trained with."""
        name, differentiates = type(self.objective).__name__, self.objective.differentiates
        if self.compile and (differentiates or isinstance(self.parameterisation, Energy)):
            raise UsageError(
                "a compiled network cannot be differentiated twice, as this objective or energy asks; leave compile out"
            )
        if differentiates and self.precision == "bfloat16":
            raise UsageError(f"{name} takes derivatives, which bfloat16 has too few digits for; set precision=float32")
        if isinstance(self.objective, FiniteDifferenceSliced) and self.network and self.network.dropout > 0.0:
            raise UsageError(f"{name} compares two evaluations, which dropout makes random; set network.dropout=0")


FREE_TO_CHANGE = (
    "steps",
    "minutes",
    "save_every",
    "log_every",
    "previews",
    "tensorboard",
    "calibrate",
    "compile",
    "sampler",
    "guidance",
    "clip",
)
"""What a resumed run may change: everything else would make it another run."""


def _ddpm() -> RunConfig:
    """Ho et al. 2020: ε on the discrete path of 1000 steps, L_simple, Adam at 2e-4, EMA of 0.9999, ancestral sampling."""
    return RunConfig(
        preset="ddpm",
        path=Discrete(),
        parameterisation=Noise(),
        objective=Denoising(),
        measure=False,
        centre=False,
        optimiser=OptimiserConfig(
            "adamw", 2e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=5000, decay="constant", clip=1.0
        ),
        average=AverageConfig("constant", 6931.0),
        sampler=Ancestral(steps=1000, variance="large"),
        clip=True,
        guidance=1.0,
        batch=128,
    )


def _edm() -> RunConfig:
    """Karras et al. 2022: F-prediction with σ_d = 0.5, log-normal noise levels, Adam at 1e-3, Heun in 18 steps."""
    return RunConfig(
        preset="edm",
        sampler=Heun(steps=18),
        guidance=1.0,
        path=EDM(),
        objective=Denoising(EDMWeighting(0.5), LogNormal(stratified=False)),
        parameterisation=Preconditioned(sigma_data=0.5),
        measure=False,
        centre=False,
        optimiser=OptimiserConfig("adamw", 1e-3, betas=(0.9, 0.999), weight_decay=0.0, warmup=10_000, decay="constant"),
        average=AverageConfig("constant", 1000.0),
        batch=512,
    )


def _iddpm() -> RunConfig:
    """Nichol & Dhariwal 2021: cosine schedule of 4000 steps, L_hybrid with a learned variance, EMA of 0.9999, 250 steps to draw.

    Their L_vlb with importance-sampled times is `objective=variational`.
    """
    return RunConfig(
        preset="iddpm",
        path=Discrete(steps=4000, schedule="cosine"),
        parameterisation=Noise(learned_variance=True),
        objective=Hybrid(),
        measure=False,
        centre=False,
        optimiser=OptimiserConfig(
            "adamw", 1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=0, decay="constant", clip=1.0
        ),
        average=AverageConfig("constant", 6931.0),
        sampler=Ancestral(steps=250, variance="learned"),
        clip=True,
        guidance=1.0,
        batch=128,
    )


def _flow() -> RunConfig:
    """Lipman et al. 2022, Liu et al. 2022: the straight path and its velocity; times as Esser et al. 2024 draw them."""
    return RunConfig(
        preset="flow",
        path=Rectified(),
        parameterisation=RectifiedVelocity(),
        objective=Denoising(FlowWeighting(), LogitNormal()),
        measure=False,
        centre=False,
        optimiser=OptimiserConfig(
            "adamw", 1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=1000, decay="constant", clip=1.0
        ),
        average=AverageConfig("constant", 6931.0),
        sampler=Heun(steps=25, grid=Linear()),
        guidance=1.0,
        batch=256,
    )


def _paper(preset: str, path: Path, sampler: Sampler, halving: float, **settings: Any) -> RunConfig:
    """ε, L_simple (λ = σ²) and Adam on a path, with the average's half-life in steps; batches of 128."""
    adam: dict[str, Any] = {"kind": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.0, "decay": "constant"}
    return RunConfig(
        preset=preset,
        path=path,
        parameterisation=Noise(),
        objective=settings.pop("objective", Denoising()),
        measure=settings.pop("measure", False),
        centre=False,
        optimiser=OptimiserConfig(**(adam | {"learning_rate": 2e-4, "warmup": 5000, "clip": 1.0} | settings)),
        average=AverageConfig("constant", halving),
        sampler=sampler,
        guidance=1.0,
        batch=128,
    )


def _ncsn() -> RunConfig:
    """Song & Ermon 2019: ten levels from 1 to 0.01, λ = σ², Adam at 1e-3, no average; 100 Langevin steps a level, ϵ = 2e-5.

    The paper's data are in [0, 1]; integers are in [−1, 1] here, for which the same noise is sigma_max=2, sigma_min=0.02 of the
    path and epsilon=8e-5 of the sampler.
    """
    levels, sampler = Denoising(times=NoiseLevels(count=10)), AnnealedLangevin(10, epsilon=2e-5, denoise=False)
    adam = {"learning_rate": 1e-3, "warmup": 0, "clip": 1e9}
    return _paper("ncsn", VE(sigma_max=1.0), sampler, 1e-3, objective=levels, **adam)


def _ncsnv2() -> RunConfig:
    """Song & Ermon 2020: σ_max, the levels and ϵ from the data (M34), Adam at 1e-4, EMA of 0.999, 5 steps a level, denoised."""
    levels, sampler = Denoising(times=NoiseLevels(count=232)), AnnealedLangevin(232, inner_steps=5)
    adam = {"learning_rate": 1e-4, "warmup": 0, "clip": 1e9}
    return _paper("ncsnv2", VE(), sampler, 692.8, objective=levels, measure=True, **adam)


def _ve() -> RunConfig:
    """Song et al. 2021, VE: σ from 0.01 to 50, Adam at 2e-4, EMA of 0.999; reverse diffusion and Langevin, r = 0.16."""
    return _paper("ve", VE(), PredictorCorrector(), 692.8)


def _vp() -> RunConfig:
    """Song et al. 2021, VP: β from 0.1 to 20 in continuous time, Adam at 2e-4, EMA of 0.9999; Euler–Maruyama."""
    return _paper("vp", VP(), EulerMaruyama(), 6931.0)


def _subvp() -> RunConfig:
    """Song et al. 2021, sub-VP: as `vp`, with less noise on the way."""
    return _paper("subvp", SubVP(), EulerMaruyama(), 6931.0)


def _likelihood() -> RunConfig:
    """Kingma et al. 2021 (VDM): the bound itself, its log-SNR drawn evenly; a network that is shown the data's levels; no labels.

    With uniform λ the squared error of ε is the likelihood's weighting (M21), and the estimate has little variance.
    """
    return RunConfig(
        preset="likelihood",
        data=DataConfig(labels=False),
        objective=Denoising(Simple(), LogUniform()),
        show_levels=True,
        guidance=1.0,
    )


PRESETS = {
    "default": RunConfig,
    "ddpm": _ddpm,
    "iddpm": _iddpm,
    "edm": _edm,
    "flow": _flow,
    "ncsn": _ncsn,
    "ncsnv2": _ncsnv2,
    "ve": _ve,
    "vp": _vp,
    "subvp": _subvp,
    "likelihood": _likelihood,
}
"""Each preset's configuration, by name."""


def configure(preset: str | None = None, settings: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset with settings of one's own: `configure("edm", {"batch": 128, "path.sigma_max": 40.0})`.

    Raises:
        UsageError: an unknown preset or setting (with the nearest known one), a wrong type, an impossible value.
    """
    preset = preset or "default"
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    plain = to_plain(PRESETS[preset]())
    for name, value in (settings or {}).items():
        _set(plain, name, value)
    return read_configuration(plain)


def read_configuration(plain: Mapping[str, Any]) -> RunConfig:
    """The configuration that `to_plain` wrote."""
    return from_plain(RunConfig, with_objective_kind(plain), KINDS)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as settings; the values are YAML: numbers, true, [64, 128], names.

    Raises:
        UsageError: a text without `=`, or a value that is not YAML.
    """
    import yaml

    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set takes key=value, got '{text[:60]}'; for example --set batch=128")
        if len(value) > _LONGEST_VALUE:
            raise UsageError(
                f"--set {name[:60]}: the value has {len(value)} characters; at most {_LONGEST_VALUE} are read"
            )
        try:
            settings[name.strip()] = _number(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none, a number without end
            raise UsageError(
                f"--set {name}: cannot read '{value[:60]}'; write a number, true, a name or a list [1,2]"
            ) from None
    return settings


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; a user means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return [_number(item) for item in value] if isinstance(value, list) else value


def _set(plain: dict[str, Any], name: str, value: Any) -> None:
    """Put a value at its dotted name; naming another kind starts it from its defaults."""
    *parents, last = name.split(".")
    place = plain
    for depth, parent in enumerate(parents):
        if not isinstance(place.get(parent), dict):
            _refuse_unknown(place, parent, parents[:depth])
            raise UsageError(
                f"'{'.'.join(parents[: depth + 1])}' has no settings of its own to set '{name}' in; set its kind first, as in --set {'.'.join(parents[: depth + 1])}=unet"
            )
        place = place[parent]
    _refuse_unknown(place, last, parents)
    place[last] = value
    abstract = _type_of(name, plain)
    if abstract in KINDS and isinstance(value, str):
        place[last] = to_plain(by_kind(KINDS[abstract], value, name)())


def _type_of(name: str, plain: Mapping[str, Any]) -> Any:
    """The type of a setting by its dotted name, through records of whatever kind `plain` has there now."""
    *parents, last = name.split(".")
    owner: Any = RunConfig
    for part in parents:
        owner, plain = _field_type(owner, part), plain[part]
        owner = by_kind(KINDS[owner], plain.get("kind"), name) if owner in KINDS else owner
    return _field_type(owner, last)


def _field_type(owner: Any, name: str) -> Any:
    """The type of a record's field; the specs of networks where one may be left open."""
    wanted = field_types(owner).get(name)
    options = typing.get_args(wanted) if wanted not in KINDS else ()
    return NetworkSpec if type(None) in options and UNetSpec in options else wanted


def _refuse_unknown(place: Mapping[str, Any], name: str, parents: Sequence[str]) -> None:
    if name not in place:
        prefix = "".join(f"{parent}." for parent in parents)
        raise unknown_name("setting", prefix + name, [prefix + known for known in place if known != "kind" or parents])


def changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """What differs between two configurations, by dotted name."""
    return dict(_differences(to_plain(before), to_plain(after), ""))


def _differences(before: Any, after: Any, name: str) -> list[tuple[str, tuple[Any, Any]]]:
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return [
            row for key in before for row in _differences(before[key], after[key], f"{name}.{key}" if name else key)
        ]
    return [] if before == after else [(name, (before, after))]
