"""How near a trellis comes to the information: efficiency corr²/(2 n ln 2) by memory and bits, on white directions.

python benchmarks/trellis.py                    the table of docs/methods/codec.md, and seconds for a large section
"""

from __future__ import annotations

import math
import time

import numpy as np

from scorefield.coding.generator import Stream
from scorefield.coding.trellis import Layout, decode, encode

BITS = (16, 64, 256, 512, 2048)
RATES = (0.03, 0.1, 0.3)


def efficiency(memory: int, bits: int, rate: float, number: int) -> float:
    """Of one section."""
    size = round(bits / rate)
    direction = np.random.default_rng(number).standard_normal(size)
    direction *= math.sqrt(2 * bits * math.log(2)) / np.linalg.norm(direction)
    _, noise = encode(direction, Layout(size, bits, memory), Stream.of(number, memory, bits))
    return float((direction @ noise) ** 2 / (direction @ direction) / (2 * bits * math.log(2)))


def main() -> None:
    """Measure and print."""
    print("| L | " + " | ".join(f"{bits} bits" for bits in BITS) + " |\n" + "|---" * (len(BITS) + 1) + "|")
    for memory in (8, 12, 14, 16):
        cells = []
        for bits in BITS:
            count = max(3, min(120, 4000 // bits)) // (4 if memory > 14 else 1) + 1
            found = [efficiency(memory, bits, rate, number) for rate in RATES for number in range(count)]
            cells.append(f"{np.mean(found):.3f} ± {np.std(found) / len(found) ** 0.5:.3f}")
        print(f"| {memory} | " + " | ".join(cells) + " |", flush=True)
    layout = Layout(784_000, 24_000, 14)
    direction = np.random.default_rng(0).standard_normal(layout.dimensions) * 0.2
    start = time.perf_counter()
    data, _ = encode(direction, layout, Stream(1))
    middle = time.perf_counter()
    decode(data, layout, Stream(1))
    print(
        f"784,000 dimensions, 24,000 bits, L = 14: encode {middle - start:.1f} s, decode {time.perf_counter() - middle:.2f} s"
    )


if __name__ == "__main__":
    main()
