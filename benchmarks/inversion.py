"""Which sampler inverts a trained model best: errors of latents, of decoding and of round trips, at equal evaluations each way.

The data go up the probability flow from t_min to t_max and down again by the same sampler. A round trip can be short though both
ways are wrong, so two more errors are measured against a flow that is solved exactly (RK4 in 150 steps): of the latents, in units
of the prior's deviation, and of data decoded from the exact latents.

    python benchmarks/inversion.py RUN DATA -n 64 --evaluations 25 50
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import scorefield as sf
from scorefield.denoisers import Denoiser
from scorefield.editing.latents import decode, encode
from scorefield.model_editing import flow_denoiser
from scorefield.samplers import Sampler

SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    "DDIM, Karras": lambda n: sf.DDIM(steps=n, grid=sf.Karras()),
    "DDIM, VP time": lambda n: sf.DDIM(steps=n, grid=sf.VPTime()),
    "Heun, Karras": lambda n: sf.Heun(steps=n // 2, grid=sf.Karras()),
    "RK4, Karras": lambda n: sf.RungeKutta(steps=n // 4, grid=sf.Karras()),
    "RK4, VP time": lambda n: sf.RungeKutta(steps=n // 4, grid=sf.VPTime()),
    "Adams–Bashforth 3, log-SNR": lambda n: sf.AdamsBashforth(steps=n, grid=sf.LogSNR()),
    "DEIS 3, Karras": lambda n: sf.DEIS(steps=n, grid=sf.Karras(), variable="own"),
    "DPM-Solver++ 2M, Karras": lambda n: sf.DPMSolverMultistep(steps=n, grid=sf.Karras()),
    "UniPC 3, Karras": lambda n: sf.UniPC(steps=n, order=3, grid=sf.Karras()),
}
EXACT = sf.RungeKutta(steps=150, grid=sf.Karras())


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.double().square().mean().sqrt())


def measured(
    denoiser: Denoiser, x: Tensor, labels: Tensor | None, exact: tuple[Tensor, Tensor], sampler: Sampler, scale: float
) -> dict[str, float]:
    """The three errors of a sampler; data in their own unit."""
    few, prior = len(exact[0]), denoiser.path.prior_std
    some = None if labels is None else labels[:few]
    codes = encode(denoiser, x, sampler, condition=labels)
    return {
        "round_trip": scale * rms(decode(denoiser, codes, sampler, condition=labels) - x),
        "latents": rms(codes[:few] - exact[0]) / prior,
        "decoded": scale * rms(decode(denoiser, exact[0], sampler, condition=some) - exact[1]),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("-n", type=int, default=64, help="pictures of the round trips")
    parser.add_argument("--exact", type=int, default=16, help="pictures of the errors against the exact flow")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50], help="each way")
    parser.add_argument("--labelled", action="store_true", help="tell the model the pictures' classes")
    parser.add_argument("--out", type=Path, help="a JSON file of the rows")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Measure every sampler at every number of evaluations, a line each."""
    given = arguments()
    model, data = sf.load(given.run), sf.open_data(given.data)
    denoiser, indices = flow_denoiser(model), np.arange(given.n)
    x = model.config.representation.to_model(data.batch(indices))
    labels = None
    if given.labelled and data.labels is not None:
        names = [data.class_names[label] for label in data.labels[indices]]
        labels = model.labels(0, 0, given.n, model.class_numbers(names, given.n))
    some = None if labels is None else labels[: given.exact]
    codes = encode(denoiser, x[: given.exact], EXACT, condition=some)
    exact, scale = (codes, decode(denoiser, codes, EXACT, condition=some)), model.config.representation.scale[0]
    print(f"exact flow: round trip {scale * rms(exact[1] - x[: given.exact]):.2g}", flush=True)
    rows = []
    for evaluations in given.evaluations:
        for name, make in SAMPLERS.items():
            found = measured(denoiser, x, labels, exact, make(evaluations), scale)
            rows.append({"sampler": name, "evaluations": evaluations, **found})
            print(f"{evaluations:4d}  {name:<28}" + "".join(f"{value:10.4f}" for value in found.values()), flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
