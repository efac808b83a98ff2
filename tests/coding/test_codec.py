"""The codec gives back what it was given, says where its bits went, and shows a coarser picture at every prefix."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scorefield.coding.bitstream import (
    CodecError,
    Header,
    ModelMismatchError,
    Reader,
    TruncatedHeaderError,
    crc16,
    pack_header,
    read_header,
)
from scorefield.coding.codec import Codec
from scorefield.coding.profile import CodecProfile
from scorefield.errors import RefusedFileError, UsageError
from scorefield.fitting import fit
from scorefield.model import Model
from scorefield.model_calibration import weights_digest
from scorefield.model_codec import codec_of
from scorefield.paths import EDM
from tests.coding.worlds import SHAPES, Still, codec, draws, mixture

GOLDEN = Path(__file__).parent / "golden"


def odd_pictures(shape: tuple[int, ...], levels: int) -> dict[str, np.ndarray]:
    """Pictures that no model expects."""
    size = int(np.prod(shape))
    noise = np.random.default_rng(3).integers(0, levels, (4, *shape))
    board = (np.indices(shape).sum(axis=0) % 2 * (levels - 1))[None]
    return {
        "all lowest": np.zeros((3, *shape), dtype=np.int64),
        "all highest": np.full((3, *shape), levels - 1),
        "noise": noise,
        "checkerboard": board,
        "a ramp": (np.arange(size) % levels).reshape(1, *shape),
    }


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_every_shape_and_count_comes_back(kind: str, levels: int) -> None:
    """A receiver that loses step with the sender anywhere gives something else."""
    coder = codec(kind, levels)
    for count in (1, 2, 13):
        values = draws(SHAPES[kind], levels, count, seed=count)
        data, ledger = coder.encode(values)
        decoded = coder.decode(data)
        assert decoded.lossless and decoded.exact == 1.0 and np.array_equal(decoded.values, values)
        assert ledger.total == 8 * len(data)


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("kind", ["grey", "colour"])
def test_pictures_that_no_model_expects_come_back(kind: str, levels: int) -> None:
    """Surprise may cost bytes, up to storing the picture as it is, and never exactness."""
    coder = codec(kind, levels)
    for name, values in odd_pictures(SHAPES[kind], levels).items():
        data, ledger = coder.encode(values)
        assert np.array_equal(coder.decode(data).values, values), name
        assert ledger.total == 8 * len(data), name
        raw = coder.stored_bytes * len(values)
        assert len(data) <= 1.05 * raw + 60, name


def test_one_noisy_picture_is_stored_and_the_others_are_not() -> None:
    """The escape is for each picture: a group must not pay for one."""
    coder = codec("grey", 256)
    values = draws(SHAPES["grey"], 256, 12, seed=9)
    values[5] = np.random.default_rng(0).integers(0, 256, SHAPES["grey"])
    data, ledger = coder.encode(values)
    header = read_header(Reader(data), coder.limits)
    assert header.stored == (5,) and ledger.stored == 8 * coder.stored_bytes
    assert np.array_equal(coder.decode(data).values, values)


@pytest.mark.parametrize("path", ["discrete", "rectified"])
def test_every_kind_of_path_has_a_codec(path: str) -> None:
    """The chain is of the path's own noise levels: those of a chain of steps, and of a path whose end knows nothing of the data."""
    coder, values = codec("grey", 17, path=path), draws(SHAPES["grey"], 17, 6, seed=2)
    assert np.array_equal(coder.decode(coder.encode(values)[0]).values, values)


@pytest.mark.parametrize("name", ["small", "progressive", "archive"])
def test_every_profile_comes_back_and_progressive_goes_further(name: str) -> None:
    """A profile chooses where the chain ends, not whether it is exact."""
    coder, values = codec("grey", 256, name), draws(SHAPES["grey"], 256, 6, seed=2)
    data, _ = coder.encode(values)
    assert np.array_equal(coder.decode(data).values, values)
    ends = {kind: codec("grey", 256, kind).profile.schedules[0].nodes[-1].ratio for kind in ("small", "progressive")}
    assert ends["progressive"] < ends["small"]


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (7, 2), (64, 1), (3, 4)])
def test_batches_and_threads_change_nothing(batch: int, threads: int) -> None:
    """A network's rounding differs with both: the grid must swallow it."""
    coder, values = codec("colour", 256), draws(SHAPES["colour"], 256, 20, seed=4)
    data, _ = coder.encode(values)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(replace(coder, batch=batch).decode(data).values, values)
        assert replace(coder, batch=batch).encode(values)[0] == data
    finally:
        torch.set_num_threads(before)


def test_a_real_network_rounds_the_same_in_any_batch() -> None:
    """A layer left in float32, or a constant computed in it, moves D by more than the grid swallows."""
    torch.manual_seed(0)
    config = fit(draws((1, 8, 8), 17, 40).astype(np.uint8)[:, 0], steps=1, network="unet").config
    network = config.build_network()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model = Model(config, network)
    coder = codec_of(model, replace(codec("eight", 17).profile, model=weights_digest(model.tensors())))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((40, 1, 8, 8)))
    with torch.inference_mode():
        whole = coder.denoiser(x, 0.5).x0
        parts = torch.cat([coder.denoiser(x[k : k + 3], 0.5).x0 for k in range(0, 40, 3)])
    assert whole.dtype == torch.float64 and 0 < (whole - parts).abs().max() < 1e-12
    values = draws((1, 8, 8), 17, 12, seed=3)
    data, _ = coder.encode(values)
    for batch in (1, 5, 12):
        assert np.array_equal(replace(coder, batch=batch).decode(data).values, values)


def test_another_process_reads_it(tmp_path: Path) -> None:
    """Nothing may hang on a process's own hashes, generators or caches."""
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, 9, seed=4)
    (tmp_path / "stream").write_bytes(coder.encode(values)[0])
    (tmp_path / "profile").write_bytes(coder.profile.to_bytes())
    np.save(tmp_path / "values.npy", values)
    script = """if True:
        import sys, numpy as np
        from pathlib import Path
        from scorefield.coding.codec import Codec
        from scorefield.coding.profile import CodecProfile
        from scorefield.paths import EDM
        from tests.coding.worlds import mixture
        folder = Path(sys.argv[1])
        profile = CodecProfile.from_bytes((folder / "profile").read_bytes(), "profile")
        decoded = Codec(mixture(profile.shape, EDM()), profile, batch=5).decode((folder / "stream").read_bytes())
        assert np.array_equal(decoded.values, np.load(folder / "values.npy"))
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("count", [1, 8])
def test_every_prefix_is_a_picture_that_gets_better(count: int) -> None:
    """Once its header is whole, every prefix must decode, say that it is not exact, and lose little of what a shorter one had."""
    coder, values = codec("grey", 256, "progressive"), draws(SHAPES["grey"], 256, count, seed=6)
    data, _ = coder.encode(values)
    errors: dict[int, list[float]] = {}
    steps = 0
    for size in range(len(data)):
        try:
            decoded = coder.decode(data[:size])
        except TruncatedHeaderError:
            assert not errors
            continue
        assert not decoded.lossless and decoded.values.shape == values.shape
        steps = decoded.steps[1]
        errors.setdefault(decoded.steps[0], []).append(float(((decoded.values - values) ** 2).mean()))
    by_step = [np.mean(errors[step]) for step in sorted(errors)]
    assert len(by_step) == steps + 1 >= (5 if count > 1 else 2)
    # 0.3 dB for groups; one picture of 36 values is a noisy measure
    slack = 1.07 if count > 1 else 3.0
    assert all(later <= slack * earlier for earlier, later in zip(by_step, by_step[1:], strict=False))
    assert by_step[-1] < 0.1 * by_step[0]
    with pytest.raises(CodecError, match="cut"):
        coder.decode(data[: len(data) - 1], strict=True)


def test_the_cost_is_near_the_bound() -> None:
    """Bits above the path's own bound: the trellis's loss on the chain, the checksums, and nothing else."""
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, 500, seed=8)
    data, ledger = coder.encode(values)
    assert 8 * len(data) <= 1.06 * ledger.bound + ledger.header
    assert sum(ledger.chain) >= sum(ledger.ideal_chain) and ledger.last <= ledger.ideal_last + 16
    assert 8 * len(data) < 0.6 * values.size * np.log2(17)


def test_the_code_is_no_shorter_than_the_information() -> None:
    """Fewer bits than the exact law of the pictures has entropy, by more than chance, would be a mistake in the counting."""
    shape, levels = (1, 6, 6), 256
    coder, values = codec("grey", levels), draws(shape, levels, 200, seed=11)
    _, ledger = coder.encode(values)
    mix = mixture(shape, coder.denoiser.path).inner
    x = torch.from_numpy(values.reshape(len(values), -1) * 2.0 / (levels - 1) - 1.0)
    components = torch.distributions.MultivariateNormal(mix.means, mix.covariances)
    log_weights = (mix.weights / mix.weights.sum()).log()
    log_p = torch.logsumexp(components.log_prob(x[:, None]) + log_weights, dim=1)
    exact = (-log_p / np.log(2.0) - x.shape[1] * np.log2(2.0 / (levels - 1))).numpy()
    assert ledger.total >= exact.sum() - 3 * exact.std() * np.sqrt(len(exact))


@pytest.mark.parametrize("count", [1, 6])
def test_damage_is_found(count: int) -> None:
    """A thousand flips and cuts: the picture, a front of it that says so, or an error; never a wrong picture, never a hang."""
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, count, seed=6)
    data, _ = coder.encode(values)
    rng, refused = np.random.default_rng(0), 0
    for trial in range(500):
        damaged = bytearray(data)
        if trial % 4 == 3:
            damaged = damaged[: rng.integers(0, len(data))]
        else:
            damaged[rng.integers(0, len(data))] ^= int(rng.integers(1, 256))
        try:
            decoded = coder.decode(bytes(damaged))
        except CodecError:
            refused += 1
        else:
            assert trial % 4 == 3, "a flipped byte went unnoticed"
            assert not decoded.lossless or np.array_equal(decoded.values, values)
    assert refused >= 375


def test_hostile_headers_are_refused_before_anything_is_allocated() -> None:
    """Sizes come from a file: a header that asks for terabytes, or for nothing that can be, must be an error."""
    coder, rng = codec("grey", 17), np.random.default_rng(1)
    start = b"SFZ\x01" + coder.profile.id
    for _ in range(300):
        with pytest.raises(CodecError):
            coder.decode(start + rng.integers(0, 256, int(rng.integers(0, 60)), dtype=np.uint8).tobytes())
    for data in (b"", b"SFZ", b"PNG\x00" * 9, b"SFZ\x02" + bytes(60), start + b"\xff" * 60):
        with pytest.raises(CodecError):
            coder.decode(data)


@pytest.mark.parametrize("seed", [-1, 16, 300])
def test_a_seed_that_the_header_cannot_hold_is_refused(seed: int) -> None:
    """It would be written as another, and the file be lost."""
    with pytest.raises(UsageError, match="0 to 15"):
        codec("grey", 17).encode(draws(SHAPES["grey"], 17, 1), seed=seed)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["header alone", "a whole section"])
def test_the_largest_stream_takes_less_than_a_gigabyte(share: float) -> None:
    """Memory is asked for by a header that anybody may write: the most examples, of the most bits, that it may hold."""
    profile = replace(codec("grey", 17).profile, shape=(1, 32, 32))
    coder = Codec(Still(EDM()), profile, batch=64)
    steps, size = len(profile.schedules[0].steps), coder.group * 1024
    header = Header(profile.id, coder.group, 0, 0, (8 * size,) * steps, 4 * size)
    section = bytes(round(share * size))
    data = pack_header(header) + section + crc16(section)
    tracemalloc.start()
    try:
        decoded = coder.decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoded.steps[0] == round(share) and not decoded.lossless and coder.group == 1024
    assert peak < 1 << 30


def test_another_models_stream_is_refused_by_name() -> None:
    """Decoded by another profile the bytes would be noise; the message must name both."""
    coder, other = codec("grey", 17), codec("grey", 17, "progressive")
    for count in (1, 3):
        data, _ = coder.encode(draws(SHAPES["grey"], 17, count))
        with pytest.raises(ModelMismatchError, match=other.profile.id.hex()[:8]) as caught:
            other.decode(data)
        assert coder.profile.id.hex()[:8] in str(caught.value) and caught.value.exit_code == 8


def test_a_profile_is_bound_to_its_content() -> None:
    """Another weight, schedule or model must give another id; the file must give back the same."""
    profile = codec("grey", 17).profile
    again = CodecProfile.from_bytes(profile.to_bytes(), "profile")
    assert again.id == profile.id and again.schedules == profile.schedules
    assert replace(profile, model="other").id != profile.id
    damaged = bytearray(profile.to_bytes())
    damaged[-4000] ^= 1
    with pytest.raises(RefusedFileError):
        CodecProfile.from_bytes(bytes(damaged), "profile")


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 1, 6, 5), dtype=np.int64),
        np.full((1, 1, 6, 6), 17),
        np.full((1, 1, 6, 6), -1),
        np.zeros((1, 1, 6, 6)),
        np.zeros((0, 1, 6, 6), dtype=np.int64),
        np.zeros((1025, 1, 6, 6), dtype=np.int64),
    ],
    ids=["shape", "above", "below", "floats", "none", "too many"],
)
def test_what_is_not_the_codecs_is_refused(values: np.ndarray) -> None:
    """What, got, fix; before anything is computed."""
    with pytest.raises(UsageError):
        codec("grey", 17).encode(values)


@pytest.mark.parametrize("stream", ["one", "group", "stored"])
def test_streams_of_version_1_stay_readable(stream: str) -> None:
    """Files outlive versions: what version 1 wrote must be read for ever. `python -m tests.coding.golden` wrote them."""
    profile = CodecProfile.from_bytes((GOLDEN / "v1-profile.safetensors").read_bytes(), "golden")
    coder = Codec(mixture(profile.shape, codec("grey", 17).denoiser.path), profile)
    expected = np.load(GOLDEN / "v1-values.npz")[stream]
    assert np.array_equal(coder.decode((GOLDEN / f"v1-{stream}.sfz").read_bytes()).values, expected)
