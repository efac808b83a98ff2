"""A model folder is one model at every moment; what is damaged or hostile is refused before it is used."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from scorefield.errors import (
    DivergedError,
    NoCheckpointError,
    RefusedFileError,
    StorageError,
    UsageError,
)
from scorefield.model_folder import (
    HEADER_LIMIT,
    read_config,
    read_model,
    safetensors_header,
    save_config,
    save_model,
    tensors_from_bytes,
    tensors_to_bytes,
)
from tests.faults import DAMAGE, at_call, fail, folder_in_memory, killed_at_call

FILES = ("config.json", "model.safetensors")
CONFIG: dict[str, Any] = {"path": {"name": "VP", "beta": [0.1, 20.0]}, "steps": 1000, "name": "é"}
OTHER = {**CONFIG, "steps": 2000}


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((2, 3), value), "count": torch.tensor(7), "empty": torch.empty(0)}


def value(folder: Path) -> tuple[int, float]:
    """What tells one model from another: the steps in its configuration and the value of its weights."""
    config, tensors = read_model(folder)
    assert config == read_config(folder)
    assert config == {**CONFIG, "steps": config["steps"]}
    assert tensors["a.weight"].eq(tensors["a.weight"][0, 0]).all()
    return config["steps"], float(tensors["a.weight"][0, 0])


# Saving


def test_a_model_comes_back_as_it_went(folder):
    """Broken by any loss on the way, or by a file that safetensors itself cannot read."""
    save_model(folder, CONFIG, weights(1.5))
    config, tensors = read_model(folder)
    assert config == CONFIG
    assert tensors.keys() == weights(1.5).keys()
    for name, tensor in weights(1.5).items():
        assert tensors[name].equal(tensor)
        assert tensors[name].dtype == tensor.dtype
    assert load_file(folder / "model.safetensors")["a.weight"].equal(tensors["a.weight"])
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_same_model_has_the_same_bytes(folder):
    """Broken by metadata in an order that changes from run to run."""
    seen = set()
    for order in (1, -1, 1):
        save_model(folder, dict(list(CONFIG.items())[::order]), dict(list(weights(1).items())[::order]))
        seen.add(tuple((folder / name).read_bytes() for name in FILES))
    assert len(seen) == 1


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["same configuration", "changed configuration"])
def test_a_reader_finds_a_model_whenever_the_writer_is_killed(folder, config):
    """Broken by two files that fit together only when both were written."""
    seen = set()
    for n in itertools.count(1):
        save_model(folder, CONFIG, weights(1))
        if not killed_at_call(n, lambda: save_model(folder, config, weights(2))):
            break
        seen.add(value(folder))
    steps = config["steps"]
    assert seen == {(1000, 1.0), (1000, 2.0), (steps, 2.0)}
    assert value(folder) == (steps, 2.0)


def test_a_first_model_is_there_or_not(folder):
    """Broken by writing the weights before the configuration: the folder would be refused as damaged."""
    seen = set()
    for n in itertools.count(1):
        for path in folder.iterdir():
            path.unlink()
        if not killed_at_call(n, lambda: save_model(folder, CONFIG, weights(1))):
            break
        seen.add(_value_or_none(folder))
    assert seen == {None, (1000, 1.0)}


def _value_or_none(folder: Path) -> tuple[int, float] | None:
    try:
        return value(folder)
    except NoCheckpointError:
        return None


def test_a_configuration_changes_under_its_weights_whenever_the_writer_is_killed(folder):
    """Broken by replacing config.json alone: the weights would not know it until they are saved again."""
    seen = set()
    for n in itertools.count(1):
        save_model(folder, CONFIG, weights(1))
        if not killed_at_call(n, lambda: save_config(folder, OTHER)):
            break
        seen.add(value(folder))
    assert seen == {(1000, 1.0), (2000, 1.0)}
    assert value(folder) == (2000, 1.0)
    # The next weights know the new configuration only.
    save_model(folder, OTHER, weights(2))
    (folder / "config.json").write_bytes(_bytes_of_config(CONFIG))
    with pytest.raises(RefusedFileError):
        read_model(folder)


def _bytes_of_config(config: dict[str, Any]) -> bytes:
    with folder_in_memory() as folder:
        save_config(folder, config)
        return (folder / "config.json").read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_failing_disk_leaves_a_model(folder, code):
    """Broken by an error that is not a StorageError, or by a model lost to a full disk."""
    for n in itertools.count(1):
        save_model(folder, CONFIG, weights(1))
        with at_call(n, fail(code)) as sweep, contextlib.suppress(StorageError):
            save_model(folder, OTHER, weights(2))
        if not sweep.fired:
            break
        assert value(folder) in {(1000, 1.0), (1000, 2.0), (2000, 2.0)}
        assert not [path for path in folder.iterdir() if path.name not in FILES]


def test_a_configuration_may_come_before_the_weights(folder):
    """Broken by a run that cannot be described before its first checkpoint."""
    save_config(folder, CONFIG)
    assert read_config(folder) == CONFIG
    save_config(folder, OTHER)
    assert read_config(folder) == OTHER
    with pytest.raises(NoCheckpointError, match=r"model.safetensors is missing") as error:
        read_model(folder)
    assert error.value.exit_code == 3


def test_damaged_weights_are_not_made_good_by_a_new_configuration(folder):
    """Broken by computing a new checksum over damaged weights."""
    save_model(folder, CONFIG, weights(1))
    DAMAGE["flip last byte"](folder / "model.safetensors")
    with pytest.raises(RefusedFileError, match="sha256"):
        save_config(folder, OTHER)
    assert json.loads((folder / "config.json").read_bytes()) == CONFIG


@pytest.mark.parametrize(
    "config",
    [{"a": float("nan")}, {"a": {1: 2}}, {"a": object()}, {"a": "x" * (1 << 20)}, {"a": [[[[[[[[[[{}]]]]]]]]]] * 2}],
)
def test_a_configuration_that_could_not_be_read_back_is_not_written(folder, config):
    """Broken by finding out when the model is loaded."""
    if isinstance(config["a"], list):
        for _ in range(10):
            config = {"a": config}
    with pytest.raises(UsageError, match="configuration"):
        save_model(folder, config, weights(1))
    assert not list(folder.iterdir())


def test_weights_that_are_not_finite_are_not_written(folder):
    """Broken by a model that draws nothing but NaN."""
    with pytest.raises(DivergedError, match="'bad' is not finite"):
        save_model(folder, CONFIG, {"bad": torch.tensor([float("nan")])})
    assert not list(folder.iterdir())


def test_more_tensors_than_are_read_are_not_written():
    """Broken by a limit on one side only."""
    tensors = {str(i): torch.empty(0) for i in range(11)}
    assert tensors_from_bytes(tensors_to_bytes(tensors, 11), "it", 11).keys() == tensors.keys()
    with pytest.raises(UsageError, match="at most 10 tensors, found 11"):
        tensors_to_bytes(tensors, 10)
    with pytest.raises(UsageError, match="rank"):
        tensors_to_bytes({"a": torch.zeros([1] * 9)})


# Damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_every_kind_of_damage_is_refused(folder, name, kind):
    """Broken by trusting safetensors, which does not notice flipped bits, or JSON, which has many spellings."""
    inner = folder / "model"
    inner.mkdir()
    save_model(inner, CONFIG, weights(1))
    DAMAGE[kind](inner / name)
    if (name, kind) == ("model.safetensors", "delete"):
        with pytest.raises(NoCheckpointError):
            read_model(inner)
        return
    with pytest.raises(RefusedFileError, match=r"expected .* found") as error:
        read_model(inner)
    assert error.value.exit_code == 8
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_byte_is_refused(folder, name):
    """Broken by a byte that no checksum covers: the header, its padding, the checksums themselves."""
    save_model(folder, CONFIG, weights(1))
    path = folder / name
    data = path.read_bytes()
    for position in range(len(data)):
        bit = 1 << position % 8
        path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        with pytest.raises(RefusedFileError):
            read_model(folder)
    path.write_bytes(data)
    assert value(folder) == (1000, 1.0)


def test_files_of_two_models_are_not_mixed(folder):
    """Broken by checksums that do not tie the two files together."""
    for name, config in (("a", CONFIG), ("b", OTHER)):
        (folder / name).mkdir()
        save_model(folder / name, config, weights(1))
    (folder / "a" / "config.json").replace(folder / "b" / "config.json")
    with pytest.raises(RefusedFileError, match=r"config.json': expected sha256"):
        read_model(folder / "b")
    with pytest.raises(RefusedFileError):
        read_config(folder / "b")


def test_swapped_files_are_refused(folder):
    """Broken by reading a configuration from whatever has its name."""
    save_model(folder, CONFIG, weights(1))
    (folder / "config.json").rename(folder / "x")
    (folder / "model.safetensors").rename(folder / "config.json")
    (folder / "x").rename(folder / "model.safetensors")
    with pytest.raises(RefusedFileError):
        read_model(folder)


def test_a_safetensors_file_from_elsewhere_is_refused(folder):
    """Broken by taking weights without checksums for verified ones."""
    save_config(folder, CONFIG)
    (folder / "model.safetensors").write_bytes(save(weights(1)))
    with pytest.raises(RefusedFileError):
        read_model(folder)


# What is no model


def test_what_is_no_model_is_told_apart(folder):
    """Broken by one exit code for a typing error, a run without weights, and damage."""
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(b"")
    (folder / "file").write_bytes(b"")
    for name, match in (("nowhere", "found nothing"), ("file", "found a file"), ("photos", "neither config.json nor")):
        with pytest.raises(UsageError, match=rf"{match}.*scorefield train") as error:
            read_model(folder / name)
        assert error.value.exit_code == 2
    (folder / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(NoCheckpointError):
        read_model(folder / "begun")
    with pytest.raises(NoCheckpointError):
        read_config(folder / "begun")


# Hostile headers


def file_of(header: Any, payload: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


HOSTILE = {
    "no length": b"\0" * 7,
    "length beyond the file": file_of({}, length=3),
    "length of 2⁶⁴−1": file_of({}, length=(1 << 64) - 1),
    "a header of 100 MB": file_of({}, length=100 << 20),
    "a list": file_of([]),
    "not JSON": file_of(b"{"),
    "a name twice": file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "deep": file_of({"a": entry(shape=[[2]])}, bytes(8)),
    "very deep": file_of(b'{"a":' * 50_000),
    "an entry that is a number": file_of({"a": 1}),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "a field too many": file_of({"a": entry(more=1)}, bytes(8)),
    "an unknown dtype": file_of({"a": entry(dtype="F31")}, bytes(8)),
    "a dtype that is a list": file_of({"a": entry(dtype=["F32"])}, bytes(8)),
    "an object": file_of({"a": entry(dtype="O")}, bytes(8)),
    "a negative size": file_of({"a": entry(shape=[-1, -2])}, bytes(8)),
    "a size that is a float": file_of({"a": entry(shape=[2.0])}, bytes(8)),
    "a size that is true": file_of({"a": entry(shape=[2, True])}, bytes(8)),
    "a shape that is a number": file_of({"a": entry(shape=2)}, bytes(8)),
    "rank 9": file_of({"a": entry(shape=[2] + [1] * 8)}, bytes(8)),
    "more items than any file holds": file_of({"a": entry(shape=[1 << 60])}, bytes(8)),
    "an empty tensor of huge sizes": file_of({"a": entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])}),
    "offsets that overflow": file_of({"a": entry(data_offsets=[(1 << 64) - 8, 1 << 64])}, bytes(8)),
    "offsets the wrong way round": file_of({"a": entry(data_offsets=[8, 0])}, bytes(8)),
    "three offsets": file_of({"a": entry(data_offsets=[0, 8, 8])}, bytes(8)),
    "a payload too short": file_of({"a": entry()}, bytes(7)),
    "a payload too long": file_of({"a": entry()}, bytes(9)),
    "an overlap": file_of({"a": entry(), "b": entry(data_offsets=[4, 12])}, bytes(12)),
    "a gap": file_of({"a": entry(), "b": entry(data_offsets=[9, 17])}, bytes(17)),
    "two of the same": file_of({"a": entry(), "b": entry()}, bytes(8)),
    "metadata that is a list": file_of({"__metadata__": []}),
    "metadata that is no text": file_of({"__metadata__": {"a": {}}}),
    "10,001 tensors": file_of({str(i): entry(shape=[0], data_offsets=[0, 0]) for i in range(10_001)}),
    "no name": file_of({"": entry()}, bytes(8)),
    "a name of 600": file_of({"a" * 600: entry()}, bytes(8)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused(data):
    """Broken by allocating what a header promises, or by any exception that is not ours."""
    with pytest.raises(RefusedFileError, match=r"expected .*, found ") as error:
        safetensors_header(data)
    assert len(str(error.value)) < 1000
    with pytest.raises(RefusedFileError):
        tensors_from_bytes(data, "it")


def test_a_good_header_is_read():
    """Broken by refusing everything."""
    data = file_of({"__metadata__": {"k": "v"}, "b": entry(), "a": entry(shape=[], dtype="I8", data_offsets=[8, 9])})
    header = safetensors_header(data, size=len(data) + 9)
    assert header.metadata == {"k": "v"}
    assert header.payload_start == len(data)
    assert (header.tensors["a"].shape, header.tensors["a"].begin, header.tensors["b"].dtype) == ((), 8, "F32")


@settings(max_examples=300)
@given(data=st.data())
def test_any_bytes_are_tensors_or_refused(data):
    """Broken by any exception but ours, and by a header that passes our check but not safetensors'."""
    good = save({"a": torch.ones(2, 2), "b": torch.tensor(3), "c": torch.empty(0, 2, dtype=torch.bfloat16)})
    mutated = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(good) - 1))
        mutated[position] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]",:F')))
    try:
        tensors = tensors_from_bytes(bytes(mutated), "it")
    except RefusedFileError:
        return
    assert len(tensors) == 3


# Checks before reading


def test_the_caller_can_refuse_before_a_weight_is_read(folder):
    """Broken by reading first: the file claims 1 TB of weights, all holes."""
    save_model(folder, CONFIG, weights(1))
    path = folder / "model.safetensors"
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    size = 1 << 40
    path.write_bytes(file_of({"__metadata__": metadata, "a": entry(dtype="U8", shape=[size], data_offsets=[0, size])}))
    os.truncate(path, path.stat().st_size + size)
    with pytest.raises(RefusedFileError, match="at most 17,179,869,184 bytes"):
        read_model(folder)

    def check(config, header):
        assert config == CONFIG
        assert header.tensors["a"].shape == (size,)
        raise RefusedFileError("another shape")

    with pytest.raises(RefusedFileError, match="another shape"):
        read_model(folder, check, limit=1 << 41)


def test_a_header_is_bounded_before_it_is_read(folder):
    """Broken by parsing a header as long as it says it is."""
    save_model(folder, CONFIG, weights(1))
    path = folder / "model.safetensors"
    path.write_bytes((HEADER_LIMIT + 1).to_bytes(8, "little"))
    os.truncate(path, 1 << 30)
    with pytest.raises(RefusedFileError, match="a header within the first 4,194,304 bytes"):
        read_model(folder)


def test_a_configuration_nested_too_deep_or_too_large_is_refused(folder):
    """Broken by parsing before measuring."""
    for data in (b'{"a":' * 100_000, b" " * ((1 << 20) + 1)):
        (folder / "config.json").write_bytes(data)
        with pytest.raises(RefusedFileError):
            read_config(folder)
