"""What a score model is, as one record: everything that `config.json` must say so that no flag is ever needed again."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefield.data.conditions import MOST_CONDITIONS
from scorefield.data.representation import Representation
from scorefield.denoisers.parameterisations import PARAMETERISATIONS, Parameterisation
from scorefield.errors import RefusedFileError, UsageError
from scorefield.networks.specs import NETWORKS, MLPSpec, UNetSpec
from scorefield.objectives import OBJECTIVES, TIME_SAMPLINGS, WEIGHTINGS, Explicit, Objective, TimeSampling, Weighting
from scorefield.paths import PATHS, Path
from scorefield.records import Kinds, from_plain, to_plain
from scorefield.samplers import GRIDS, SAMPLERS, Grid, Sampler

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
NetworkSpec = UNetSpec | MLPSpec

MAX_PARAMETERS = 4_000_000_000
"""The largest network that is built, in (roughly estimated) parameters."""

MAX_BLOCKS = 2048
"""The deepest network that is built, in residual blocks: each costs time even where it costs no memory."""

KINDS: Kinds = {
    Path: PATHS,
    Parameterisation: PARAMETERISATIONS,
    Objective: tuple(kind for kind in OBJECTIVES if kind is not Explicit),  # whose reference no file can hold
    Weighting: WEIGHTINGS,
    TimeSampling: TIME_SAMPLINGS,
    Sampler: SAMPLERS,
    Grid: GRIDS,
    NetworkSpec: NETWORKS,  # type: ignore[dict-item]  # a union stands for its members
}
"""The final types behind every abstract one in a configuration."""


@dataclass(frozen=True)
class ModelConfig:
    """A score model without its weights.

    Attributes:
        path, parameterisation, network: the model itself.
        objective: what it was fitted by.
        sampler: what it is drawn from by, unless told otherwise.
        guidance: scale of classifier-free guidance where there are classes and unless told otherwise; 1 is none.
        clip: whether the denoiser is held within the range of integer data when it is sampled.
        representation: the map between data and model space.
        mean: of the data in model space, one number a channel or one in all; zeros where the network was not told.
        sigma_data: standard deviation of the centred data in model space.
        class_names: one a class; none where the model has no classes.
        class_weights: how frequent each class is in the data.
        condition_names: one each of the numbers that samples are conditioned on, in place of classes; none where they are not.
        condition_mean, condition_scale: of those numbers in the data; the network is told (c − mean)/scale.
        always_conditioned: whether no example was trained on without its class or numbers, so that nothing can be drawn without.
        provenance: for people: the data's name and digest, the preset, versions.
        format: of this file.
    """

    path: Path
    parameterisation: Parameterisation
    network: NetworkSpec
    objective: Objective
    sampler: Sampler
    representation: Representation
    mean: tuple[float, ...] = (0.0,)
    sigma_data: float = 1.0
    guidance: float = 1.0
    clip: bool = False
    class_names: tuple[str, ...] = ()
    class_weights: tuple[float, ...] = ()
    condition_names: tuple[str, ...] = ()
    condition_mean: tuple[float, ...] = ()
    condition_scale: tuple[float, ...] = ()
    always_conditioned: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise UsageError(
                f"this model has format {self.format}, this version of scorefield reads {FORMAT}; update scorefield"
            )
        if len(self.class_names) != len(self.class_weights):
            raise UsageError(
                f"a model has one weight a class, got {len(self.class_weights)} for {len(self.class_names)}"
            )
        self._check_conditions()
        require_buildable(self.network, self.shape)
        if len(self.mean) not in (1, self.shape[0]):
            raise UsageError(
                f"a model's mean has one number or one a channel, got {len(self.mean)} for {self.shape[0]} channels"
            )

    def _check_conditions(self) -> None:
        """Refuse a mean or a scale that is missing or impossible."""
        counts = {len(self.condition_names), len(self.condition_mean), len(self.condition_scale)}
        if len(counts) != 1 or self.conditions > MOST_CONDITIONS:
            raise UsageError(
                f"a model has one mean and one scale each of at most {MOST_CONDITIONS} conditions, got {len(self.condition_mean)} and {len(self.condition_scale)} for {self.conditions}"
            )
        if not all(math.isfinite(mean) for mean in self.condition_mean) or not all(
            0.0 < scale < math.inf for scale in self.condition_scale
        ):
            raise UsageError("a condition's mean must be finite and its scale positive; train the model again")
        if self.conditions and self.classes:
            raise UsageError("a model is of classes or of conditions, not of both")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample in model space."""
        return self.representation.shape

    @property
    def classes(self) -> int:
        """The number of classes, 0 without."""
        return len(self.class_names)

    @property
    def conditions(self) -> int:
        """How many numbers samples are conditioned on, 0 where they are not."""
        return len(self.condition_names)

    def standardised(self, rows: np.ndarray) -> np.ndarray:
        """Conditions (n, k) in the data's own units as the network is told them: (c − mean)/scale, float32."""
        moved = rows.astype(np.float64) - np.array(self.condition_mean)
        return np.asarray(moved / np.array(self.condition_scale), dtype=np.float32)

    def build_network(self) -> nn.Module:
        """The network with fresh weights, with the channels that the parameterisation reads."""
        outputs = self.parameterisation.out_channels(self.shape[0])
        return self.network.build(self.shape, outputs, self.classes, self.conditions)

    def to_plain(self) -> dict[str, Any]:
        """As JSON says it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
        """From JSON.

        Raises:
            RefusedFileError: something is missing, unknown or impossible.
        """
        try:
            return from_plain(cls, with_objective_kind(plain), KINDS)
        except UsageError as error:
            raise RefusedFileError(f"{where}: {error}") from None


def with_objective_kind(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Plain data whose objective says its kind: before there were several, none did, and it was denoising."""
    objective = plain.get("objective")
    if not isinstance(objective, Mapping) or "kind" in objective:
        return plain
    return {**plain, "objective": {"kind": "denoising", **objective}}


def require_buildable(network: NetworkSpec, shape: tuple[int, ...]) -> None:
    """Refuse a network too large to build, before anything is allocated: a model file or a slip of the keyboard can ask for any.

    Raises:
        UsageError: more blocks or parameters than `MAX_BLOCKS` and `MAX_PARAMETERS`.
    """
    blocks = network.depth if isinstance(network, MLPSpec) else 2 * sum(network.depths)
    if blocks > MAX_BLOCKS:
        raise UsageError(f"the network has {blocks:.3g} blocks, at most {MAX_BLOCKS} are built; lower network.depth(s)")
    parameters = _parameters(network, shape)
    if parameters > MAX_PARAMETERS:
        raise UsageError(
            f"the network has about {parameters:.3g} parameters, at most {MAX_PARAMETERS:.0e} are built; lower network.width(s)"
        )


def _parameters(network: NetworkSpec, shape: tuple[int, ...]) -> int:
    """About how many weights a network has for samples of a shape (C, *d): its matrices, without biases."""
    embedding = network.embedding
    if isinstance(network, MLPSpec):
        block = 2 * network.width**2 + 2 * embedding * network.width
        return embedding**2 + network.depth * block + 2 * shape[0] * network.width
    rank = len(shape) - 1
    ends = 2 * shape[0] * (1 + len(network.periods)) * network.fold**rank * network.widths[0]
    levels = zip(network.widths, network.depths, strict=True)
    blocks = sum(depth * (5 * 3**rank * width**2 + 4 * embedding * width) for width, depth in levels)
    return embedding**2 + 3**rank * ends + blocks


def versions() -> dict[str, str]:
    """The versions that a model was made with."""
    from importlib.metadata import version

    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy")}
