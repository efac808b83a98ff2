"""A run's configuration: presets, settings by dotted name, what is left to the data, and what a resumed run may change."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scorefield.denoisers import PARAMETERISATIONS, Noise, Preconditioned, RectifiedVelocity
from scorefield.errors import UsageError
from scorefield.model_config import KINDS
from scorefield.networks import NETWORKS, MLPSpec, UNetSpec
from scorefield.objectives import (
    TIME_SAMPLINGS,
    WEIGHTINGS,
    Denoising,
    Hybrid,
    ImportanceSampled,
    LogUniform,
    NoiseLevels,
    Objective,
    Simple,
    Variational,
)
from scorefield.paths import EDM, PATHS, VE, VP, Discrete, Rectified, SubVP
from scorefield.records import kind_of, to_plain
from scorefield.samplers import GRIDS, SAMPLERS, AnnealedLangevin, EulerMaruyama, Heun, Levels, PredictorCorrector
from scorefield.training.configuration import (
    PRESETS,
    RunConfig,
    changes,
    configure,
    parse_settings,
    read_configuration,
)
from scorefield.training.options import AverageConfig, DataConfig, OptimiserConfig
from scorefield.training.settling import Surroundings, on_its_ladder, resolved

CHOICES = {
    "path": PATHS,
    "parameterisation": PARAMETERISATIONS,
    "network": NETWORKS,
    "objective": KINDS[Objective],
    "objective.weighting": WEIGHTINGS,
    "objective.times": TIME_SAMPLINGS,
    "sampler": SAMPLERS,
    "sampler.grid": GRIDS,
}
EVERY_CHOICE = [
    (name, kind_of(kind)) for name, kinds in CHOICES.items() for kind in kinds if kind is not Levels
]  # Levels are of no use before they are given


def companions(preset: str, name: str, kind: str) -> dict[str, Any]:
    """What else must be set for a choice to be possible in a preset."""
    needed: dict[str, Any] = {}
    if (
        preset == "iddpm" and name != "objective"
    ):  # its own asks for a chain and a learned variance, and has no weighting
        needed |= {"objective": "denoising", "sampler": "ancestral"}
    if kind in ("rectified", "vpcosine"):  # at α = 0 a network that predicts the noise says nothing of the data
        needed |= {"parameterisation": "velocity"}
    if preset == "flow" and name == "parameterisation":
        needed |= {"path": "vp"}
    if kind in ("variational", "hybrid"):
        needed |= {"path": "discrete", "parameterisation": "noise", "parameterisation.learned_variance": True}
    return needed


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("name", "kind"), EVERY_CHOICE)
def test_every_choice_in_every_preset_comes_back_equal_through_json(preset: str, name: str, kind: str) -> None:
    config = configure(preset, companions(preset, name, kind) | {name: kind})
    plain = json.loads(json.dumps(to_plain(config)))
    assert read_configuration(plain) == config
    for part in name.split("."):
        plain = plain[part]
    assert plain["kind"] == kind


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_known_by_its_name(preset: str) -> None:
    assert configure(preset).preset == preset and configure(preset) == PRESETS[preset]()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_about_training_says_what_a_preset_is(preset: str) -> None:
    """A preset that no page names is found by nobody."""
    page = Path(__file__).parents[2] / "docs" / "tasks" / "train.md"
    assert f"`{preset}`" in page.read_text(encoding="utf-8")


def test_presets_are_their_papers() -> None:
    """Ho et al. 2020, section 4 and appendix B; Karras et al. 2022, table 1."""
    ddpm, edm = configure("ddpm"), configure("edm")
    assert isinstance(ddpm.path, Discrete) and (ddpm.path.beta_start, ddpm.path.beta_end) == (1e-4, 0.02)
    assert ddpm.optimiser.learning_rate == 2e-4 and ddpm.sampler.steps == 1000
    assert math.exp(-math.log(2) / ddpm.average.width) == pytest.approx(0.9999, abs=1e-8)
    assert edm.path == EDM(0.002, 80.0) and edm.sampler == Heun(steps=18)


def test_the_likelihood_preset_minimises_the_bound() -> None:
    """Kingma et al. 2021, eq. 18: over uniform log-SNR the bound is the mean squared error of ε; labels would make it conditional."""
    config = configure("likelihood")
    assert config.objective == Denoising(Simple(), LogUniform()) and not config.data.labels


def test_a_network_is_shown_the_values_of_the_data() -> None:
    """A period must be one spacing of the data in the network's own units; continuous data have none, nor has a perceptron."""
    images = replace(IMAGES, levels=256)
    config = resolved(configure("likelihood"), images)
    assert isinstance(config.network, UNetSpec) and isinstance(config.parameterisation, Preconditioned)
    spacing = 2 / 255 / config.parameterisation.sigma_data
    assert config.network.periods == pytest.approx((spacing, 2 * spacing, 4 * spacing))
    assert resolved(config, images) == config
    unshown = resolved(configure("likelihood"), replace(IMAGES, levels=None)).network
    assert isinstance(unshown, UNetSpec) and unshown.periods == ()
    assert isinstance(resolved(configure("likelihood"), replace(POINTS, levels=256)).network, MLPSpec)


def test_score_matching_presets_are_their_papers() -> None:
    """Song & Ermon 2019, section 5; 2020, appendix B; Song et al. 2021, appendix C: levels, steps, averages, learning rates."""
    ncsn, ncsnv2 = configure("ncsn"), configure("ncsnv2")
    assert ncsn.path == VE(0.01, 1.0)
    assert ncsn.objective == Denoising(Simple(), NoiseLevels(count=10))
    assert ncsn.sampler == AnnealedLangevin(10, inner_steps=100, epsilon=2e-5, denoise=False)
    assert (ncsn.optimiser.learning_rate, ncsnv2.optimiser.learning_rate) == (1e-3, 1e-4)
    assert isinstance(ncsnv2.sampler, AnnealedLangevin)
    assert ncsnv2.sampler.inner_steps == 5 and ncsnv2.sampler.relative_step(ncsnv2.path) * 1e-4 == pytest.approx(
        6.2e-6, rel=0.03
    )
    ve, vp, subvp = configure("ve"), configure("vp"), configure("subvp")
    assert ve.sampler == PredictorCorrector(1000, predictor="reverse-diffusion", corrector="langevin", snr=0.16)
    assert vp.sampler == subvp.sampler == EulerMaruyama(1000)
    assert (ve.path, vp.path, subvp.path) == (VE(0.01, 50.0), VP(0.1, 20.0), SubVP(0.1, 20.0))
    for preset, decay in ((ncsnv2, 0.999), (ve, 0.999), (vp, 0.9999), (subvp, 0.9999)):
        assert math.exp(-math.log(2) / preset.average.width) == pytest.approx(decay, abs=1e-6)
        assert preset.batch == 128


def test_ncsnv2_takes_its_levels_from_the_data() -> None:
    """σ_max is the largest distance, and as many levels are trained and sampled as the dimension asks for (M34)."""
    found = replace(IMAGES, shape=(3, 32, 32), largest_distance=50.0)
    config = resolved(configure("ncsnv2"), found)
    assert config.path == VE(0.01, 50.0)
    assert isinstance(config.objective, Denoising) and isinstance(config.objective.times, NoiseLevels)
    assert 210 < config.objective.times.count < 240
    assert config.sampler == replace(configure("ncsnv2").sampler, steps=config.objective.times.count)
    kept = resolved(configure("ncsnv2", {"measure": False}), found)
    assert kept.objective == configure("ncsnv2").objective and kept.path == VE()
    assert resolved(configure("ncsn"), found).sampler == configure("ncsn").sampler


def test_a_ladder_is_still_the_measured_one_when_a_run_is_resumed() -> None:
    """The sampler is free to change, and comes from the request again: its levels are those that the network knows (M34)."""
    settled = resolved(configure("ncsnv2"), replace(IMAGES, largest_distance=20.0))
    assert on_its_ladder(replace(settled, sampler=configure("ncsnv2").sampler)) == settled
    other = replace(settled, sampler=Heun())
    assert on_its_ladder(other) == other


def test_iddpm_and_flow_are_their_papers() -> None:
    """Nichol & Dhariwal 2021, sections 3.1–3.3: 4000 cosine steps, L_hybrid; Liu et al. 2022: the line and its velocity."""
    iddpm, flow = configure("iddpm"), configure("flow")
    assert isinstance(iddpm.path, Discrete) and (iddpm.path.steps, iddpm.path.schedule) == (4000, "cosine")
    assert iddpm.parameterisation.learned_variance and iddpm.objective == Hybrid(vlb_weight=0.001)
    assert isinstance(flow.path, Rectified) and isinstance(flow.parameterisation, RectifiedVelocity)


def test_an_objective_is_chosen_by_its_name() -> None:
    """`--set objective=sliced` starts from that kind's defaults; its own settings follow, another's are refused."""
    config = configure(None, {"objective": "sliced", "objective.slices": 3, "objective.times": "lognormal"})
    assert to_plain(config.objective)["slices"] == 3
    deep = configure(None, {"objective.times": "importancesampled", "objective.times.strata": 7})
    assert to_plain(deep.objective)["times"] == to_plain(ImportanceSampled(strata=7))
    assert configure(None, {"objective.weighting": "minsnr"}).objective != RunConfig().objective
    with pytest.raises(UsageError, match="unknown setting 'objective.slices'"):
        configure(None, {"objective.slices": 3})
    with pytest.raises(UsageError, match="unknown objective 'explicit'"):
        configure(None, {"objective": "explicit"})


def test_a_run_from_before_objectives_had_kinds_is_read() -> None:
    """Its `run.json` has an objective without a kind, which was denoising."""
    plain = json.loads(json.dumps(to_plain(RunConfig())))
    assert plain["objective"].pop("kind") == "denoising"
    assert read_configuration(plain) == RunConfig()


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"objective": "hybrid"}, "path=discrete"),
        ({"objective": "hybrid", "path": "discrete"}, "parameterisation.learned_variance=true"),
        ({"sampler": "ancestral", "sampler.variance": "learned"}, "sampler.variance=small"),
        ({"objective": "sliced", "compile": True}, "leave compile out"),
        ({"parameterisation": "energy", "compile": True}, "leave compile out"),
        ({"objective": "implicit", "precision": "bfloat16"}, "precision=float32"),
        (
            {"objective": "finitedifferencesliced", "network": "mlp", "network.dropout": 0.1},
            "network.dropout=0",
        ),
    ],
)
def test_what_an_objective_cannot_be_trained_with_is_refused(settings: dict[str, Any], fix: str) -> None:
    """Each would train to nonsense, or stop at the first step with a message of torch's."""
    with pytest.raises(UsageError, match=fix):
        configure(None, settings)


def test_a_setting_reaches_its_place_and_no_other() -> None:
    config = configure(
        None, {"optimiser.learning_rate": 1e-4, "path.sigma_max": 9, "network": "unet", "network.fold": 1}
    )
    assert config.optimiser.learning_rate == 1e-4 and config.path == EDM(sigma_max=9.0)
    assert config.network == UNetSpec(fold=1)
    assert set(changes(RunConfig(), config)) == {"optimiser.learning_rate", "path.sigma_max", "network"}


def test_naming_another_kind_starts_from_its_defaults() -> None:
    assert configure(None, {"path.sigma_max": 9.0, "path": "vp"}).path == VP()
    assert configure("ddpm", {"path": "discrete"}).path == Discrete()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1e400", math.inf),
        ("3", 3),
        ("true", True),
        ("[64, 128]", [64, 128]),
        ("vp", "vp"),
        ("a=b", "a=b"),
        ("", None),
        ("[1e-3]", [1e-3]),
    ],
)
def test_values_are_read_as_a_user_means_them(text: str, value: Any) -> None:
    assert parse_settings([f" a.b ={text}"]) == {"a.b": value}


def test_the_last_of_several_settings_counts() -> None:
    assert parse_settings(["a=1", "a=2"]) == {"a": 2}


IMPOSSIBLE: list[tuple[type, dict[str, Any]]] = [
    (DataConfig, {"size": 0}),
    (DataConfig, {"size": (64, 10**6)}),
    (DataConfig, {"layout": "upside-down"}),
    (OptimiserConfig, {"kind": "adma"}),
    (OptimiserConfig, {"learning_rate": 0.0}),
    (OptimiserConfig, {"betas": (0.9,)}),
    (OptimiserConfig, {"betas": (0.9, 1.0)}),
    (OptimiserConfig, {"weight_decay": -0.1}),
    (OptimiserConfig, {"warmup": -1}),
    (OptimiserConfig, {"decay": "exponential"}),
    (OptimiserConfig, {"clip": 0.0}),
    (AverageConfig, {"profile": "linear"}),
    (AverageConfig, {"width": 0.0}),
    (AverageConfig, {"width": 0.5}),
    (AverageConfig, {"profile": "constant", "width": 1e10}),
    (RunConfig, {"batch": 0}),
    (RunConfig, {"accumulate": 0}),
    (RunConfig, {"label_dropout": -0.1}),
    (RunConfig, {"parameterisation": Noise(label="time")}),
    (RunConfig, {"precision": "float16"}),
    (RunConfig, {"seed": 2**63}),
    (RunConfig, {"steps": 0}),
    (RunConfig, {"minutes": math.nan}),
    (RunConfig, {"log_every": 0}),
    (RunConfig, {"previews": -1}),
    (RunConfig, {"network": MLPSpec(width=10**6)}),
    (RunConfig, {"network": UNetSpec(widths=(8,), depths=(10**5,), attention=0)}),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_network_is_told_of_times_in_numbers_that_it_can_tell_apart(preset: str) -> None:
    """Frequencies of whole turns see 0 … 999 as one and the same: labels must be of order one, which the networks are made for."""
    config = configure(preset)
    path, label = config.path, config.parameterisation.noise_label
    told = [float(label(path, path.snap(part * path.t_max))) for part in (1e-3, 0.01, 0.1, 0.5, 0.9, 1.0)]
    assert all(abs(value) <= 3.0 for value in told), told
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(("record", "values"), IMPOSSIBLE, ids=str)
def test_impossible_values_are_refused_by_name(record: type, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=list(values)[-1]):
        record(**values)


def test_the_learning_rate_warms_up_and_decays() -> None:
    """Linear in the steps, then half a cosine, a line, or nothing; never below zero."""
    config = OptimiserConfig(warmup=10)
    assert [config.factor(step, 0.0) for step in (1, 5, 10, 11)] == [0.1, 0.5, 1.0, 1.0]
    assert config.factor(99, 0.5) == pytest.approx(0.5) and config.factor(99, 1.0) == 0.0
    assert replace(config, decay="linear").factor(99, 0.25) == 0.75
    assert replace(config, decay="constant").factor(99, 1.0) == 1.0
    assert replace(config, warmup=0).factor(1, 0.0) == 1.0 and config.factor(99, 2.0) == 0.0


POINTS = Surroundings((2,), 1.5, (1.5, 1.5), "float32")
IMAGES = Surroundings((1, 28, 28), 0.5, (0.5,), "bfloat16")


def test_what_is_left_open_is_settled_by_data_and_machine() -> None:
    points, images = resolved(RunConfig(), POINTS), resolved(RunConfig(), IMAGES)
    assert (points.batch, points.optimiser.kind, points.precision) == (512, "adamw", "float32")
    assert (images.batch, images.optimiser.kind, images.precision) == (64, "muon", "bfloat16")
    assert isinstance(points.network, MLPSpec) and isinstance(images.network, UNetSpec)


def test_derivatives_are_taken_in_float32() -> None:
    """A machine that is faster in bfloat16 may not choose it where second derivatives are trained."""
    assert resolved(configure(None, {"objective": "sliced"}), IMAGES).precision == "float32"


def test_the_bound_is_told_of_the_datas_values() -> None:
    """8-bit data are decoded by 256 bins unless another number was asked for; continuous data by a density."""
    pictures = replace(IMAGES, levels=256)
    assert resolved(configure("iddpm"), pictures).objective == Hybrid(levels=256)
    assert resolved(configure("iddpm"), POINTS).objective == Hybrid(levels=None)
    asked = configure("iddpm", {"objective": "variational", "objective.levels": 16})
    assert resolved(asked, pictures).objective == Variational(levels=16)


def test_energies_are_measured_too() -> None:
    """σ_d of an energy is the data's, as that of EDM's F."""
    config = resolved(configure(None, {"parameterisation": "energy"}), POINTS)
    assert to_plain(config.parameterisation)["sigma_data"] == 1.5


def test_what_was_set_is_not_touched() -> None:
    config = configure("edm", {"network": "mlp", "batch": 7, "precision": "float32", "optimiser.kind": "muon"})
    assert resolved(config, IMAGES) == config


def test_noise_levels_are_measured_in_units_of_the_data() -> None:
    """Twice the σ_data of 0.5 that EDM was made for doubles every noise level."""
    config = resolved(RunConfig(path=EDM(0.002, 80.0)), replace(POINTS, sigma_data=1.0, sigma_by_channel=(1.0, 1.0)))
    before = RunConfig().objective.times
    assert config.path == EDM(0.004, 160.0)
    assert to_plain(config.parameterisation)["sigma_data"] == 1.0
    assert to_plain(config.objective)["weighting"]["sigma_data"] == 1.0
    shift = to_plain(config.objective)["times"]["mean"] - to_plain(before)["mean"]
    assert shift == pytest.approx(math.log(2))


def test_sigma_data_is_about_the_mean_that_the_model_is_given() -> None:
    """Centred by channel, the distance between channels' means is no noise; centred by one mean, it is."""
    found = Surroundings((2, 4, 4), 2.0, (1.0, 1.0), "float32")
    centred, plain = (resolved(configure(None, {"centre": centre}), found) for centre in (True, False))
    assert isinstance(centred.parameterisation, Preconditioned) and centred.parameterisation.sigma_data == 1.0
    assert isinstance(plain.parameterisation, Preconditioned) and plain.parameterisation.sigma_data == 2.0


def test_what_only_the_data_show_to_be_impossible_is_refused() -> None:
    """Mirrored points are other points, and constant data have no noise level; both would train to nonsense."""
    with pytest.raises(UsageError, match="flip"):
        resolved(configure(None, {"data.flip": True}), POINTS)
    with pytest.raises(UsageError, match="all examples are equal"):
        resolved(configure(), Surroundings((2,), 0.0, (0.0, 0.0), "float32"))
