"""Models combined: what is drawn from products, mixtures and quotients, beside the exact laws, and two classes of digits in one.

Three parts, each with its table: closed forms (mixtures of Gaussians, whose products are mixtures of Gaussians), the same with
energies that networks learned from points, and digits of 8×8 pixels with a class for a condition. Of several seeds the
first two say mean ± half the range. Writes a picture of points and one of digits.

    python benchmarks/composition.py --out docs/images
    python benchmarks/composition.py --parts exact points --seeds 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from scorefield.denoisers import (
    CentredEnergy,
    Energy,
    EnergyDenoiser,
    GaussianMixture,
    NetworkEnergy,
    Union,
    conditioned,
    negation,
    product,
)
from scorefield.networks import MLPSpec
from scorefield.objectives import Denoising, EDMWeighting, LogNormal, LogUniform
from scorefield.paths import EDM
from scorefield.samplers import AnnealedLangevin, EulerMaruyama, Heun, LogSNR, PredictorCorrector, Sampler

PATH = EDM(0.03, 8.0)
DRAWN = 2000
NULL = 10
PAIR = (3, 5)
NEGATED = 0.6
SHOWN = ("reverse SDE", "MALA, 20 moves")
PARTS = ("exact", "points", "digits")


def float64(numbers: Any) -> Tensor:
    """Numbers as a float64 tensor."""
    return torch.as_tensor(np.asarray(numbers, dtype=np.float64))


# ── laws that are known ──────────────────────────────────────────────────────────────────────────────────────────────


def bars(upright: bool) -> GaussianMixture:
    """Three bars, upright or lying, of unequal weights."""
    along, across = 0.8**2, 0.14**2
    places = float64([[-1.1, 0.0], [0.0, 0.0], [1.1, 0.0]])
    variances = float64([across, along])
    if not upright:
        places, variances = places.flip(1), variances.flip(0)
    return GaussianMixture(PATH, float64([0.5, 0.3, 0.2]), places, torch.diag(variances).expand(3, 2, 2).clone())


def blob() -> GaussianMixture:
    """One broad Gaussian above, to be divided by."""
    return GaussianMixture(PATH, float64([1.0]), float64([[0.0, 1.0]]), float64([[[1.0, 0.0], [0.0, 1.0]]]))


def exact_union(one: GaussianMixture, other: GaussianMixture) -> GaussianMixture:
    """The mixture of two mixtures in equal parts."""
    parts = [(world.weights / world.weights.sum(), world.means, world.covariances) for world in (one, other)]
    return GaussianMixture(PATH, *(torch.cat(list(column)) for column in zip(*parts, strict=True)))


def wasserstein(one: Tensor, other: Tensor) -> float:
    """The mean over 64 directions of the Wasserstein-1 distance of the projections."""
    angles = torch.arange(64, dtype=torch.float64) * torch.pi / 64
    onto = torch.stack([angles.cos(), angles.sin()])
    return float(((one @ onto).sort(0).values - (other @ onto).sort(0).values).abs().mean())


def distance(drawn: Tensor, exact: GaussianMixture) -> tuple[float, float]:
    """(mean sliced Wasserstein distance to eight exact samples of the same size, relative error of the covariance)."""
    others = [exact.draw(len(drawn), torch.Generator().manual_seed(900 + k)) for k in range(8)]
    truth = torch.cov(exact.draw(200_000, torch.Generator().manual_seed(5)).T)
    gap = torch.cov(drawn.T) - truth
    return sum(wasserstein(drawn, other) for other in others) / 8, float(gap.norm() / truth.norm())


def samplers() -> dict[str, Sampler]:
    """Two plain ones, and ladders of 80 levels with so many moves of .4 σ² each."""
    epsilon = 0.4 * PATH.sigma(PATH.t_min) ** 2
    return {
        "Heun's method": Heun(40),
        "reverse SDE": EulerMaruyama(400, LogSNR()),
        "ULA, 5 moves a level": AnnealedLangevin(80, inner_steps=5, epsilon=epsilon),
        "ULA, 20 moves": AnnealedLangevin(80, inner_steps=20, epsilon=epsilon),
        "MALA, 5 moves": AnnealedLangevin(80, inner_steps=5, epsilon=epsilon, metropolis=True),
        "MALA, 20 moves": AnnealedLangevin(80, inner_steps=20, epsilon=epsilon, metropolis=True),
        "reverse SDE, then MALA, 20 moves": PredictorCorrector(
            80, LogSNR(), predictor="euler-maruyama", corrector="metropolis", snr=0.447, corrector_steps=20
        ),
    }


def draw(sampler: Sampler, denoiser: EnergyDenoiser, seed: int, like: torch.dtype = torch.float64) -> Tensor:
    """Samples of a denoiser in the plane."""
    x_T = PATH.prior_std * torch.randn(DRAWN, 2, generator=torch.Generator().manual_seed(4 + 10 * seed), dtype=like)
    with torch.no_grad():
        return sampler.sample(denoiser, x_T, generator=torch.Generator().manual_seed(8 + 10 * seed)).double()


def draw_exact(exact: GaussianMixture, seed: int) -> Tensor:
    """As many samples of a law."""
    return exact.draw(DRAWN, torch.Generator().manual_seed(77 + 1000 * seed))


Compositions = dict[str, tuple[EnergyDenoiser, GaussianMixture]]


def compositions(parts: Sequence[EnergyDenoiser]) -> Compositions:
    """Each composition of three parts beside its exact law."""
    one, other, away = bars(True), bars(False), blob()
    a, b, c = parts
    return {
        "A": (a, one),
        "B": (b, other),
        "C": (c, away),
        "A · B": (_known(product((a, b))), one.times(other)),
        "½A + ½B": (Union((a, b)), exact_union(one, other)),
        f"A / C^{NEGATED}": (_known(negation(a, c, NEGATED)), one.times(away, -NEGATED)),
    }


def _known(denoiser: Any) -> EnergyDenoiser:
    if not isinstance(denoiser, EnergyDenoiser):
        raise TypeError("these parts have energies")
    return denoiser


def closed_forms(seeds: int) -> dict[str, list[Tensor]]:
    """Print the table of what samplers draw from exact parts; (exact, plain, MALA) samples of each composition, first seed."""
    wanted = {name: pair for name, pair in compositions((bars(True), bars(False), blob())).items() if len(name) > 1}
    rows = {name: [draw_exact(exact, 0)] for name, (_, exact) in wanted.items()}
    print("| exact parts | evaluations | " + " | ".join(wanted) + " |")
    print("|---|---|" + "---|" * len(wanted))
    for title, sampler in samplers().items():
        drawn = {name: [draw(sampler, parts, k) for k in range(seeds)] for name, (parts, _) in wanted.items()}
        print(f"| {title} | {sampler.evaluations()} | {_cells(drawn, wanted)} |", flush=True)
        if title in SHOWN:
            for name, samples in drawn.items():
                rows[name].append(samples[0])
    floors = {name: [draw_exact(exact, k) for k in range(seeds)] for name, (_, exact) in wanted.items()}
    print(f"| exact draws | | {_cells(floors, wanted)} |", flush=True)
    return rows


def _cells(drawn: dict[str, list[Tensor]], wanted: Compositions) -> str:
    return " | ".join(_cell(samples, wanted[name][1]) for name, samples in drawn.items())


def _cell(samples: Sequence[Tensor], exact: GaussianMixture) -> str:
    """Mean ± half the range of the distance over seeds, and the mean error of the covariance."""
    far, off = np.array([distance(drawn, exact) for drawn in samples]).T
    spread = f" ± {np.ptp(far) / 2.0:.3f}" if len(far) > 1 else ""
    return f"{far.mean():.3f}{spread} ({100.0 * off.mean():.0f} %)"


# ── networks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fit(
    network: torch.nn.Module,
    denoiser: EnergyDenoiser,
    objective: Denoising,
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor | None]],
    steps: int,
    rate: float,
) -> float:
    """Train a network's energy, its learning rate falling to zero; the processor seconds that it took."""
    generator, began = torch.Generator().manual_seed(1), time.process_time()
    optimiser = torch.optim.AdamW(network.parameters(), rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        x_0, condition = batch(generator)
        optimiser.zero_grad()
        objective(denoiser, x_0, condition, generator=generator).mean().backward()
        optimiser.step()
        schedule.step()
    network.requires_grad_(False)
    return time.process_time() - began


def learned(world: GaussianMixture, steps: int, seed: int) -> tuple[EnergyDenoiser, float]:
    """An energy learned from 20,000 points of a law; the seed is that of points and weights."""
    torch.manual_seed(seed)
    data = world.draw(20_000, torch.Generator().manual_seed(3 + 10 * seed)).float()
    network = MLPSpec(width=128, depth=3, embedding=32).build((2,))
    denoiser = NetworkEnergy(network, PATH, Energy(sigma_data=1.0))
    seconds = fit(
        network,
        denoiser,
        Denoising(times=LogUniform()),
        lambda generator: (data[torch.randint(len(data), (256,), generator=generator)], None),
        steps,
        6e-3,
    )
    return denoiser, seconds


def learned_points(steps: int, seeds: int) -> dict[str, list[Tensor]]:
    """Print the table of learned parts; (exact, plain, MALA) samples of each composition, first seed."""
    worlds = (bars(True), bars(False), blob())
    fitted = [[learned(world, steps, seed) for world in worlds] for seed in range(seeds)]
    spent = [sum(seconds for _, seconds in parts) for parts in fitted]
    print(f"\nlearned from points in {min(spent):.0f} to {max(spent):.0f} processor seconds for all three\n")
    seen = [compositions([denoiser for denoiser, _ in parts]) for parts in fitted]
    rows: dict[str, list[Tensor]] = {}
    print(f"| learned parts | {' | '.join(SHOWN)} | exact draws |\n|---|---|---|---|")
    for name, (_, exact) in seen[0].items():
        ways = [[draw(samplers()[title], seen[k][name][0], k, torch.float32) for k in range(seeds)] for title in SHOWN]
        ways.append([draw_exact(exact, k) for k in range(seeds)])
        print(f"| {name} | {' | '.join(_cell(samples, exact) for samples in ways)} |", flush=True)
        rows[name] = [ways[2][0], ways[0][0], ways[1][0]]
    return rows


# ── digits ───────────────────────────────────────────────────────────────────────────────────────────────────────────

DIGITS_PATH = EDM(0.04, 20.0)
STRIP = 16


def digits() -> tuple[Tensor, Tensor]:
    """1,797 digits of 64 numbers in [−1, 1], and their classes."""
    bunch = load_digits()
    return torch.from_numpy(bunch.data / 8.0 - 1.0).float(), torch.from_numpy(bunch.target).long()


def learned_digits(steps: int) -> tuple[CentredEnergy, float]:
    """One energy of digits given their class, or no class: every tenth example goes without."""
    torch.manual_seed(0)
    data, labels = digits()
    mean, network = data.mean(0), MLPSpec(width=320, depth=3, embedding=64, dropout=0.1).build((64,), classes=NULL)
    denoiser = CentredEnergy(NetworkEnergy(network, DIGITS_PATH, Energy(sigma_data=float((data - mean).std()))), mean)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(data), (256,), generator=generator)
        dropped = torch.rand(256, generator=generator) < 0.1
        return data[chosen], labels[chosen].masked_fill(dropped, NULL)

    seconds = fit(network, denoiser, Denoising(EDMWeighting(), LogNormal(mean=-0.4)), batch, steps, 2e-3)
    network.eval()
    return denoiser, seconds


def digit_terms(denoiser: EnergyDenoiser) -> dict[str, EnergyDenoiser]:
    """One class, the other, and what can be made of the two; every weight sums to one."""
    first, second, free = (_known(conditioned(denoiser, number)) for number in (*PAIR, NULL))
    one, other = PAIR
    return {
        f"{one}": first,
        f"{other}": second,
        f"{one} and {other}": _known(product((first, second, free), (1.0, 1.0, -1.0))),
        f"{one} or {other}": Union((first, second)),
        f"{one}, not {other}": _known(product((first, second, free), (1.5, -1.0, 0.5))),
    }


def draw_digits(sampler: Sampler, denoiser: EnergyDenoiser, count: int) -> Tensor:
    """(count, 64) digits."""
    x_T = DIGITS_PATH.prior_std * torch.randn(count, 64, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return sampler.sample(denoiser, x_T, generator=torch.Generator().manual_seed(7))


def digit_strips(steps: int, count: int) -> dict[str, Tensor]:
    """Print what a classifier sees in each composition; samples of each walked with MALA."""
    denoiser, seconds = learned_digits(steps)
    data, labels = digits()
    judge = LogisticRegression(max_iter=2000, C=0.1).fit(data.numpy(), labels.numpy())
    plain = EulerMaruyama(100, LogSNR())
    walked = PredictorCorrector(
        60, LogSNR(), predictor="euler-maruyama", corrector="metropolis", snr=0.2, corrector_steps=6
    )
    print(f"\ndigits learned in {seconds:.0f} processor seconds\n")
    one, other = PAIR
    print(
        f"| digits | p({one}), p({other}) of the reverse SDE's | p({one}), p({other}) with MALA | both lead, SDE | both lead, MALA |"
    )
    print("|---|---|---|---|---|")
    strips = {}
    for name, composed in digit_terms(denoiser).items():
        ways = [draw_digits(sampler, composed, count) for sampler in (plain, walked)]
        shares = [judge.predict_proba(drawn.numpy()) for drawn in ways]
        seen = [f"{share[:, one].mean():.2f}, {share[:, other].mean():.2f}" for share in shares]
        lead = [f"{100.0 * _both_lead(share):.0f} %" for share in shares]
        print(f"| {name} | {' | '.join(seen + lead)} |", flush=True)
        strips[name] = ways[1][:STRIP]
    return strips


def _both_lead(shares: np.ndarray) -> float:
    """How often the two classes are the two likeliest."""
    return float(np.mean([set(np.argsort(row)[-2:]) == set(PAIR) for row in shares]))


# ── the pictures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def picture(blocks: dict[str, dict[str, list[Tensor]]], path: Path) -> None:
    """Points: a column a composition; the exact law above, and below it a row a sampler, of exact parts and then of learned ones."""
    names = max((list(rows) for rows in blocks.values()), key=len)
    titles = ["exact law", *(f"{sampler},\n{parts}" for parts in blocks for sampler in SHOWN)]
    figure, axes = plt.subplots(
        len(titles), len(names), figsize=(11.5, 1.95 * len(titles)), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=11)
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title)
    for axis in axes.flat:
        axis.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), xticks=[], yticks=[], aspect="equal")
    for first, rows in zip(range(1, len(titles), len(SHOWN)), blocks.values(), strict=True):
        for name, (law, *drawn) in rows.items():
            for row, points in zip((0, *range(first, first + len(SHOWN))), (law, *drawn), strict=True):
                axis = axes[row, names.index(name)]
                if not axis.collections:
                    axis.scatter(*points.T, s=2.0, alpha=0.45, color="#20406f", linewidths=0)
    for axis in axes.flat:
        axis.set_frame_on(bool(axis.collections))
    _save(figure, path, 96)


def picture_of_digits(strips: dict[str, Tensor], path: Path) -> None:
    """One strip a composition."""
    figure, axes = plt.subplots(len(strips), 1, figsize=(11.5, 0.86 * len(strips)), layout="constrained")
    for axis, (name, samples) in zip(axes, strips.items(), strict=True):
        framed = np.full((len(samples), 10, 10), 1.0)
        framed[:, 1:9, 1:9] = samples.view(-1, 8, 8).clamp(-1.0, 1.0).numpy()
        axis.imshow(np.concatenate(list(framed), 1), cmap="gray", vmin=-1.0, vmax=1.0, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_frame_on(False)
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    _save(figure, path, 32)


def _save(figure: Any, path: Path, colours: int) -> None:
    figure.savefig(path, dpi=85)
    plt.close(figure)
    with Image.open(path) as saved:
        small = saved.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def main() -> None:
    """Print the tables and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="where the pictures go")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the tables wanted")
    parser.add_argument("--seeds", type=int, default=1, help="of draws, and of points and training where there is any")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each energy of points")
    parser.add_argument("--digit-steps", type=int, default=4000, help="training steps of the energy of digits")
    parser.add_argument("--count", type=int, default=400, help="digits of each composition that are judged")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plt.switch_backend("Agg")
    options.out.mkdir(parents=True, exist_ok=True)
    blocks: dict[str, dict[str, list[Tensor]]] = {}
    if "exact" in options.parts:
        blocks["exact parts"] = closed_forms(options.seeds)
    if "points" in options.parts:
        blocks["learned parts"] = learned_points(options.steps, options.seeds)
    if blocks:
        picture(blocks, options.out / "composition.png")
    if "digits" in options.parts:
        strips = digit_strips(options.digit_steps, options.count)
        picture_of_digits(strips, options.out / "composition-digits.png")


if __name__ == "__main__":
    main()
