r"""A codec's profile: everything that sender and receiver share beside the model, made once and stored beside it.

It holds the schedules as the numbers that were computed, the integer network of the last stage and its tables, so that a
receiver computes no exponential, logarithm or root of its own. Its id is the digest of all that and of the model's weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np

from scorefield.coding.pixels import PixelNetwork
from scorefield.coding.schedule import Schedule
from scorefield.errors import RefusedFileError, UsageError
from scorefield.model_folder import tensors_from_bytes, tensors_to_bytes
from scorefield.records import from_plain, to_plain
from scorefield.storage import parse_json, refused, sha256

VERSION = 1
FILE_LIMIT = 1 << 28
_SETTINGS = "settings"

NAMES = ("small", "progressive", "archive")
"""What a profile can be for: fewest bytes; a smooth way from coarse to exact; fewest bytes for thousands, more slowly."""


@final
@dataclass(frozen=True, eq=False)
class CodecProfile:
    """What a codec knows beside the model.

    Attributes:
        name: what it is for.
        model: digest of the model's weights.
        shape: of one example in model space.
        levels: V.
        mean: of the data in model space, one number a channel or one in all: where the chain starts.
        schedules: chains to choose from, which end at the same noise level.
        pixels: the last stage.
        expected_bits: of each schedule's steps, a value, as measured on training data.
    """

    name: str
    model: str
    shape: tuple[int, ...]
    levels: int
    mean: tuple[float, ...]
    schedules: tuple[Schedule, ...]
    pixels: PixelNetwork
    expected_bits: tuple[tuple[float, ...], ...]

    @cached_property
    def id(self) -> bytes:
        """The first eight bytes of the digest of everything."""
        return bytes.fromhex(sha256(self._content()))[:8]

    def _settings(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "name": self.name,
            "model": self.model,
            "shape": list(self.shape),
            "levels": self.levels,
            "mean": list(self.mean),
            "schedules": [to_plain(schedule) for schedule in self.schedules],
            "mixtures": self.pixels.mixtures,
            "expected_bits": [list(bits) for bits in self.expected_bits],
        }

    def _content(self) -> bytes:
        """Settings and numbers in one order of bytes."""
        parts = [json.dumps(self._settings(), sort_keys=True).encode()]
        for group in (self.pixels.tensors, self.pixels.tables):
            for name in sorted(group):
                array = np.ascontiguousarray(group[name], dtype="<f8")
                parts += [f"{name}{array.shape}".encode(), array.tobytes()]
        return b"\0".join(parts)

    def to_bytes(self) -> bytes:
        """The profile as a safetensors file."""
        import torch

        arrays: dict[str, np.ndarray] = {
            f"tensor.{name}": value.astype(np.int32) for name, value in self.pixels.tensors.items()
        }
        arrays |= {f"table.{name}": np.asarray(value, dtype=np.float64) for name, value in self.pixels.tables.items()}
        settings = json.dumps(self._settings() | {"id": self.id.hex()}, sort_keys=True).encode()
        arrays[_SETTINGS] = np.frombuffer(settings, dtype=np.uint8).copy()
        return tensors_to_bytes({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> CodecProfile:
        """The inverse of `to_bytes`.

        Raises:
            RefusedFileError: damaged, foreign, or of another version.
        """
        tensors = {name: tensor.numpy() for name, tensor in tensors_from_bytes(data, where).items()}
        if _SETTINGS not in tensors:
            raise refused(where, "a codec's profile", "a file without settings")
        settings = parse_json(tensors.pop(_SETTINGS).tobytes(), where)
        try:
            profile = _built(settings, tensors)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise refused(where, "a codec's profile", f"something else ({error})") from None
        if profile.id.hex() != settings.get("id"):
            raise RefusedFileError(
                f"{where}: the profile is damaged; delete it, and `scorefield codec-profile` makes it again"
            )
        return profile


def _built(settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> CodecProfile:
    if settings["version"] != VERSION:
        raise UsageError(f"version {settings['version']}, where {VERSION} is read")
    groups: dict[str, dict[str, np.ndarray]] = {"tensor": {}, "table": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        groups[kind][rest] = value.astype(np.float64)
    shape = tuple(settings["shape"])
    return CodecProfile(
        settings["name"],
        settings["model"],
        shape,
        settings["levels"],
        tuple(settings["mean"]),
        tuple(from_plain(Schedule, plain, {}) for plain in settings["schedules"]),
        PixelNetwork(shape, settings["levels"], settings["mixtures"], groups["tensor"], groups["table"]),
        tuple(tuple(bits) for bits in settings["expected_bits"]),
    )
