"""Writes the streams that every later version must read: `python -m tests.coding.golden`, once a format version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.coding.worlds import SHAPES, codec, draws


def main() -> None:
    """Three streams, their values, and the profile; a version's files are never written again."""
    folder, coder = Path(__file__).parent, codec("grey", 17)
    noisy = draws(SHAPES["grey"], 17, 5, seed=21)
    noisy[2] = np.random.default_rng(0).integers(0, 17, SHAPES["grey"])
    values = {
        "one": draws(SHAPES["grey"], 17, 1, seed=20),
        "group": draws(SHAPES["grey"], 17, 20, seed=22),
        "stored": noisy,
    }
    with (folder / "v1-profile.safetensors").open("xb") as file:
        file.write(coder.profile.to_bytes())
    for name, pictures in values.items():
        (folder / f"v1-{name}.sfz").write_bytes(coder.encode(pictures)[0])
    np.savez_compressed(folder / "v1-values.npz", one=values["one"], group=values["group"], stored=values["stored"])


if __name__ == "__main__":
    main()
