"""A checkpoint is whole or absent whenever its writer dies, and every damaged byte of it is found."""

from __future__ import annotations

import errno
import itertools
import logging
import math
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scorefield.errors import (
    DivergedError,
    NoCheckpointError,
    RefusedFileError,
    StorageError,
    UsageError,
)
from scorefield.training.checkpoints import (
    checkpoint_bytes,
    clean_leftovers,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from scorefield.training.run_folder import RunFolder
from tests.faults import DAMAGE, ERRORS, at_call, fail, folder_in_memory, in_child, killed_at_call

FILES = ("state.safetensors", "state.json", "manifest.json")
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.fixture
def run() -> Iterator[RunFolder]:
    with folder_in_memory() as folder:
        run = RunFolder(folder / "run")
        run.create()
        yield run


def save(run: RunFolder, step: int, *, keep: int = 2) -> None:
    """A checkpoint whose content is a function of its step."""
    tensors = {"weights": torch.full((3, 4), float(step)), "counter": torch.tensor(step), "mask": torch.tensor([True])}
    save_checkpoint(run, step, tensors, {"seen": step * 64, "betas": [0.9, 0.999]}, keep=keep)


def latest_step(run: RunFolder) -> int:
    """The step of the newest checkpoint, after a look at whether the content is that step's."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.tensors["weights"].eq(checkpoint.step).all()
    assert checkpoint.state["seen"] == checkpoint.step * 64
    return checkpoint.step


def steps(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


# Round trips


def test_tensors_come_back_with_their_dtypes_shapes_and_bits(run):
    """Broken by a detour over another dtype, by strides that are lost, or by two names that share memory."""
    base = torch.arange(24.0).reshape(2, 3, 2, 2)
    tensors = {
        "scalar": torch.tensor(2**62 + 1),
        "zero": torch.tensor(-0.0),
        "empty": torch.empty(0, 3, dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "channels last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 1),
        "view": base[0],
        "same": base[0],
        "expanded": torch.ones(1, 2).expand(5, 2),
        "half": torch.tensor([1.5, 2**-14], dtype=torch.bfloat16),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "learned": torch.nn.Parameter(torch.ones(2)),
        "eight bits": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
        "complex": torch.tensor([1 + 2j]),
        'name with "quotes" and ü': torch.ones(1),
    }
    save_checkpoint(run, 7, tensors, {})
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        back = checkpoint.tensors[name]
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert back.flatten().view(torch.uint8).equal(tensor.detach().contiguous().flatten().view(torch.uint8))
    checkpoint.tensors["view"].add_(1)
    assert not checkpoint.tensors["view"].equal(checkpoint.tensors["same"])


@st.composite
def trees(draw):
    shapes = st.lists(st.integers(0, 3), max_size=4)
    tensors = {}
    for name in draw(st.sets(st.text(min_size=1, max_size=5).filter(lambda name: name != "__metadata__"), max_size=4)):
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        values = torch.randn(draw(shapes), generator=generator) * 5
        tensors[name] = values.to(draw(st.sampled_from(DTYPES)))
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    inner = st.recursive(plain, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(st.text(), tree, max_size=3))
    return tensors, draw(st.dictionaries(st.text(max_size=5), inner, max_size=3))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=trees(), step=st.integers(0, 10**15))
def test_any_state_comes_back_as_it_went(run, tree, step):
    """Broken by a state that JSON or safetensors changes on the way, or cannot read back."""
    tensors, state = tree
    back = read_checkpoint(save_checkpoint(run, step, tensors, state))
    assert (back.step, back.state) == (step, state)
    assert back.tensors.keys() == tensors.keys()
    assert all(back.tensors[name].equal(tensor) for name, tensor in tensors.items())
    assert all(back.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_the_same_state_has_the_same_bytes(tmp_path):
    """Broken by any order that depends on insertion or hashing, and by the clock: resume is compared byte by byte."""
    folders = []
    for name, order in (("a", 1), ("b", -1)):
        run = RunFolder(tmp_path / name)
        run.create()
        tensors = [(f"t{i}", torch.full((2,), float(i))) for i in range(9)][::order]
        state = [(f"s{i}", {"x": i}) for i in range(9)][::order]
        folders.append(save_checkpoint(run, 1, dict(tensors), dict(state)))
    for file in FILES:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


# What is kept


def test_the_newest_good_checkpoints_are_kept(run):
    """Broken by sorting names as text (step-9 after step-10), or by keeping one only."""
    for step in (8, 9, 10, 11):
        save(run, step)
    assert steps(run) == ["step-10", "step-11"]
    save(run, 12, keep=3)
    assert steps(run) == ["step-10", "step-11", "step-12"]
    with pytest.raises(UsageError, match="keep ≥ 2"):
        save(run, 13, keep=1)


def test_clocks_are_not_asked(run):
    """Broken by choosing the newest by modification time."""
    for step, when in ((1, 4e9), (2, 0)):
        save(run, step)
        os.utime(run.step(step), (when, when))
    assert latest_step(run) == 2
    save(run, 3)
    assert steps(run) == ["step-2", "step-3"]


def test_a_damaged_checkpoint_does_not_count_as_kept(run):
    """Broken by deleting the last good one since two others, both damaged, are newer."""
    for step in (1, 2, 3):
        save(run, step, keep=3)
    for step in (2, 3):
        (run.step(step) / "state.json").write_bytes(b"{}")
    save(run, 4)
    assert steps(run) == ["step-1", "step-2", "step-3", "step-4"]
    save(run, 5)
    assert steps(run) == ["step-4", "step-5"]


def test_a_step_that_was_damaged_can_be_saved_again(run):
    """Broken by a rename onto a folder that is not empty."""
    for step in (1, 2):
        save(run, step)
    (run.step(2) / "state.json").unlink()
    save(run, 2)
    assert latest_step(run) == 2
    assert steps(run) == ["step-1", "step-2"]


def test_a_step_older_than_those_that_are_there_is_kept_all_the_same(run):
    """Broken by deleting what was just saved, as the oldest of three."""
    for step in (5, 6, 2):
        save(run, step)
    assert steps(run) == ["step-2", "step-5", "step-6"]


def test_a_step_that_is_there_already_is_not_written_again(run):
    """Broken by replacing a good checkpoint by itself: it would be gone for a moment."""
    save(run, 1)
    inode = run.step(1).stat().st_ino
    save(run, 1)
    assert run.step(1).stat().st_ino == inode


def test_no_checkpoint_is_none(run):
    """Broken by an error at the first start."""
    assert latest_checkpoint(run) is None
    run.checkpoints.rmdir()
    assert latest_checkpoint(run) is None


def test_other_names_are_no_checkpoints(run):
    """Broken by int() as it comes: it takes "+1", "01", "1_0" and digits of other scripts."""
    for name in ("step-+1", "step-01", "step-1_0", "step-٣", "step--1", "step-", ".tmp-step-9-x", "step-1\n", "last"):
        (run.checkpoints / name).mkdir()
    assert latest_checkpoint(run) is None
    save(run, 3)
    assert latest_step(run) == 3


def test_the_size_is_known_beforehand(run):
    """Broken by a prediction smaller than what is then written."""
    tensors = {f"a.long.name.of.a.tensor.{i}": torch.zeros(1000) for i in range(50)}
    folder = save_checkpoint(run, 1, tensors, {})
    written = sum(path.stat().st_size for path in folder.iterdir())
    assert 200_000 < written <= checkpoint_bytes(tensors) < written + (1 << 21)


# What may not be saved


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float8_e5m2])
def test_a_checkpoint_is_finite(run, value, dtype):
    """Broken by saving what a resumed run would start from and never leave."""
    with pytest.raises(DivergedError, match="'bad' is not finite"):
        save_checkpoint(run, 1, {"good": torch.zeros(2), "bad": torch.tensor([0, value]).to(dtype)}, {})
    with pytest.raises(DivergedError, match="not finite"):
        save_checkpoint(run, 1, {}, {"loss": [1.0, value]})
    assert steps(run) == []


@pytest.mark.parametrize("state", [{"a": {1: 2}}, {"a": torch.zeros(1)}, {"a": {"b": {1, 2}}}])
def test_a_state_that_cannot_be_stored_is_refused_before_anything_is_written(run, state):
    """Broken by finding out when the run is resumed."""
    with pytest.raises(UsageError, match="state cannot be stored"):
        save_checkpoint(run, 1, {}, state)
    assert steps(run) == []


# Damage


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", DAMAGE)
def test_every_kind_of_damage_is_named_and_passed_over(run, caplog, file, kind):
    """Broken by trusting a size, a name or a checksum that was not compared."""
    save(run, 5)
    save(run, 10)
    DAMAGE[kind](run.step(10) / file)
    with caplog.at_level(logging.WARNING, "scorefield"):
        assert latest_step(run) == 5
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("step-10 is damaged and passed over: ")
    assert "expected" in message
    assert "found" in message
    assert file in message
    assert "\n" not in message
    assert {"step-5", "step-10"} <= set(steps(run))


@pytest.mark.parametrize("file", FILES)
def test_a_change_of_any_byte_is_found(run, file):
    """Broken by a byte that no checksum covers: padding, a space in JSON, the digits of the manifest's own checksum."""
    save(run, 5)
    path = run.step(5) / file
    data = path.read_bytes()
    for position in range(len(data)):
        bit = 1 << position % 8
        path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        with pytest.raises(RefusedFileError):
            read_checkpoint(run.step(5))
    path.write_bytes(data)
    assert read_checkpoint(run.step(5)).step == 5


@pytest.mark.parametrize("one", FILES)
@pytest.mark.parametrize("other", FILES)
def test_swapped_files_are_found_within_a_checkpoint_and_between_two(run, one, other):
    """Broken by checksums that are not tied to names, or a manifest that is not tied to a step."""
    save(run, 5)
    save(run, 10)
    ours, theirs = run.step(10) / one, run.step(5) / other
    ours_data, theirs_data = ours.read_bytes(), theirs.read_bytes()
    ours.write_bytes(theirs_data)
    theirs.write_bytes(ours_data)
    for step in (5, 10):
        with pytest.raises(RefusedFileError):
            read_checkpoint(run.step(step))
    theirs.write_bytes(theirs_data)
    if one != other:
        (run.step(10) / other).write_bytes(ours_data)
        with pytest.raises(RefusedFileError):
            read_checkpoint(run.step(10))


def test_a_renamed_checkpoint_is_found(run):
    """Broken by believing the name of the folder: step 5's weights would count as step 10's."""
    save(run, 5)
    run.step(5).rename(run.step(10))
    with pytest.raises(RefusedFileError, match="expected format 1 of step 10, found format 1 of step 5"):
        read_checkpoint(run.step(10))


@pytest.mark.parametrize("what", ["file", "link", "more"])
def test_what_does_not_belong_is_found(run, what):
    """Broken by following a link to another folder, or by ignoring a file that nobody wrote."""
    save(run, 5)
    save(run, 10)
    folder = run.step(10)
    if what == "more":
        (folder / "more\nlines").write_bytes(b"")
    else:
        folder.rename(run.path / "moved")
        folder.symlink_to(run.path / "moved") if what == "link" else folder.write_bytes(b"")
    with pytest.raises(RefusedFileError, match=r"expected (a folder|nothing), found a (file|link)") as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)
    assert latest_step(run) == 5


def test_where_none_is_intact_training_does_not_begin_again(run):
    """Broken by None, which means a first start, or by deleting what could still be rescued."""
    save(run, 5)
    save(run, 10)
    for step in (5, 10):
        DAMAGE["flip middle byte"](run.step(step) / "state.safetensors")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(NoCheckpointError, match=r"none of the 2 checkpoints .* expected sha256 .* found") as error:
        latest_checkpoint(run)
    assert error.value.exit_code == 3
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_manifest_is_believed_or_refused(run, data):
    """Broken by any other exception on a manifest with a right checksum and wrong content."""
    from scorefield.training.checkpoints import _signed

    if not run.step(5).exists():
        save(run, 5)
    plain = st.none() | st.integers(-1, 5) | st.text(max_size=3) | st.lists(st.none(), max_size=1)
    entry = st.dictionaries(st.sampled_from(["bytes", "sha256", "x"]), plain, max_size=2) | plain
    files = st.dictionaries(st.sampled_from([*FILES, "../x"]), entry, max_size=3) | plain
    keys = {"format": st.just(1) | plain, "step": st.just(5) | plain, "files": files}
    manifest = data.draw(st.fixed_dictionaries({}, optional=keys))
    (run.step(5) / "manifest.json").write_bytes(_signed(manifest))
    with pytest.raises(RefusedFileError):
        read_checkpoint(run.step(5))


# Failing disks and killed processes


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("code", ERRORS[:3], ids=errno.errorcode.get)
def test_a_failing_disk_costs_at_most_the_new_checkpoint(run, code, lasting):
    """Broken by deleting before writing, or by an error that is not a StorageError (exit code 4)."""
    messages = []
    for n in itertools.count(1):
        save(run, 2 * n)
        save(run, 2 * n + 1)
        with at_call(n, fail(code), lasting=lasting) as sweep:
            try:
                save(run, 2 * n + 2)
            except StorageError as error:
                messages.append(str(error))
        if not sweep.fired:
            break
        read_checkpoint(run.step(2 * n + 1))
        assert latest_step(run) in (2 * n + 1, 2 * n + 2)
        clean_leftovers(run)
    assert len(messages) >= 14  # three files of open, write, fsync; the folders; the rename; reading back
    assert all(errno.errorcode[code] in message or "reads back" in message for message in messages)


def test_a_save_after_a_failed_one_succeeds(run):
    """Broken by a leftover that is in the way of the next try."""
    save(run, 1)
    with at_call(6, fail(errno.ENOSPC), lasting=True), pytest.raises(StorageError):
        save(run, 2)
    save(run, 2)
    clean_leftovers(run)
    assert steps(run) == ["step-1", "step-2"]


def test_a_process_killed_at_any_system_call_of_a_save_loses_at_most_that_save(run):
    """Broken by any order of writing, renaming and deleting that shows half a checkpoint to the next start."""
    for n in itertools.count(1):
        save(run, 3 * n)
        save(run, 3 * n + 1)
        if not killed_at_call(n, partial(save, run, 3 * n + 2)):
            break
        assert latest_step(run) in (3 * n + 1, 3 * n + 2)
        clean_leftovers(run)
        assert not list(run.path.rglob(".tmp-*"))
    assert n > 25


def test_a_process_killed_while_it_replaces_a_damaged_step_loses_no_other(run):
    """Broken by making room for the new step among the good ones."""
    save(run, 1)
    save(run, 2)
    for n in itertools.count(1):
        if run.step(2).exists():
            DAMAGE["flip last byte"](run.step(2) / "state.json")
        if not killed_at_call(n, partial(save, run, 2)):
            break
        assert latest_step(run) in (1, 2)
        clean_leftovers(run)
    assert latest_step(run) == 2
    assert steps(run) == ["step-1", "step-2"]


def test_a_process_killed_at_any_time_resumes_from_what_it_had_saved(run):
    """Broken by reporting a checkpoint as saved that is not, or by showing an unfinished one; 12 real kills."""
    chance = random.Random(0)
    for _ in range(12):
        start = latest_checkpoint(run)
        first = 0 if start is None else start.step + 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            in_a_loop(run, first, writer)
        os.close(writer)
        assert os.read(reader, 8)  # the first save of this child is done
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = first + len(os.read(reader, 1 << 16)) // 8
        os.close(reader)
        assert latest_step(run) >= saved
        clean_leftovers(run)


def in_a_loop(run: RunFolder, first: int, writer: int) -> None:
    for step in itertools.count(first):
        save(run, step)
        os.write(writer, step.to_bytes(8, "little"))


def test_a_reader_never_sees_a_part_of_a_checkpoint(run):
    """Broken by a writer that changes a folder under its reader: reading needs no lock."""
    save(run, 0)
    child = os.fork()
    if child == 0:
        for step in range(1, 40):
            save(run, step, keep=3)
        os._exit(0)
    seen = set()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        seen.add(latest_step(run))
    assert latest_step(run) == 39
    assert seen


def test_a_child_process_can_save(run):
    """Guards the tests above: the forked processes are able to do what they are killed in."""
    assert in_child(lambda: save(run, 1)) == 0
    assert latest_step(run) == 1
