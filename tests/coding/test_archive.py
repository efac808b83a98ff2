"""Archives: pictures of any size as tiles, their names, and many streams in one file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scorefield.coding import bitstream
from scorefield.coding.archive import Picture, pack, unpack
from scorefield.coding.bitstream import CodecError, TruncatedHeaderError, pack_directory
from scorefield.errors import UsageError
from tests.coding.worlds import SHAPES, codec, draws


def test_pictures_of_any_size_come_back_under_their_names() -> None:
    """Tiles must be put together as they were cut, and the repeated edge be cut off again."""
    coder, rng = codec("colour", 17), np.random.default_rng(0)
    sizes = [(5, 4), (1, 1), (11, 9), (5, 8), (12, 4)]
    values = [
        np.minimum(draws(SHAPES["colour"], 17, 1)[0][:, :1, :1] + np.zeros((3, *size), dtype=int), 16) for size in sizes
    ]
    values[2] = rng.integers(0, 17, (3, 11, 9))
    pictures = [Picture(value, f"set/{k} ü", is_grey=k == 1) for k, value in enumerate(values)]
    data, ledgers = pack(coder, pictures)
    found = unpack(coder, data)
    assert found.lossless and found.examples == 1 + 1 + 9 + 2 + 3 == sum(ledger.values for ledger in ledgers) // 60
    for given, got in zip(pictures, found.pictures, strict=True):
        assert got.name == given.name and got.is_grey == given.is_grey and np.array_equal(got.values, given.values)


def test_numbered_pictures_need_no_directory() -> None:
    """What goes without saying must cost nothing."""
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, 3)
    plain, _ = pack(coder, [Picture(value) for value in values])
    assert plain == pack(coder, [Picture(value, f"{k:06d}") for k, value in enumerate(values)])[0]
    assert plain == coder.encode(values)[0]
    assert [picture.name for picture in unpack(coder, plain).pictures] == ["000000", "000001", "000002"]


def test_groups_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """More examples than a stream holds make several; a cut archive shows the whole ones, and what there is of the next."""
    monkeypatch.setattr(bitstream, "_MOST_EXAMPLES", 4)
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, 10)
    done: list[int] = []
    data, ledgers = pack(coder, [Picture(value) for value in values], progress=done.append)
    assert len(ledgers) == 3 and done == [4, 8, 10] and sum(ledger.total for ledger in ledgers) < 8 * len(data)
    found = unpack(coder, data)
    assert found.lossless and np.array_equal(np.stack([picture.values for picture in found.pictures]), values)
    for size in range(0, len(data), 7):
        try:
            part = unpack(coder, data[:size])
        except TruncatedHeaderError:
            assert size < 60
            continue
        assert not part.lossless
        exact = np.stack([picture.values for picture in part.pictures])[: (part.examples - 1) // 4 * 4]
        assert np.array_equal(exact, values[: len(exact)])
    with pytest.raises(CodecError, match="cut"):
        unpack(coder, data[:-3], strict=True)


def test_a_stream_that_does_not_come_back_is_made_with_another_seed() -> None:
    """`verify` must not let a stream through that was decoded to something else, and must give up in the end."""
    coder, values = codec("grey", 17), draws(SHAPES["grey"], 17, 2)
    judged: list[bytes] = []

    def second(data: bytes, group: np.ndarray) -> bool:
        judged.append(data)
        return len(judged) > 1 and np.array_equal(coder.decode(data).values, group)

    data, _ = pack(coder, [Picture(value) for value in values], verify=second)
    assert len(judged) == 2 and judged[0] != judged[1] == data
    with pytest.raises(CodecError, match="any seed"):
        pack(coder, [Picture(values[0])], verify=lambda *_: False)


@pytest.mark.parametrize(
    "entries",
    [
        {"a": 1},
        [1],
        [["x", 2]],
        [["x", 0, 0, 5]],
        [["x", 0, 1 << 21, 5]],
        [[5]],
        0,
        True,
        [["x", 0, 5]],
        [["x" * 5000]],
    ],
    ids=str,
)
def test_a_directory_that_cannot_be_is_refused(entries: object) -> None:
    """A directory comes from a file: sizes and names must be checked before they are believed."""
    coder = codec("grey", 17)
    stream, _ = coder.encode(draws(SHAPES["grey"], 17, 1))
    with pytest.raises(CodecError):
        unpack(coder, pack_directory(json.dumps(entries).encode()) + stream)


def test_a_directory_that_asks_for_endless_tiles_is_refused() -> None:
    """A few bytes must not make a receiver set aside terabytes."""
    coder = codec("grey", 17)
    stream, _ = coder.encode(draws(SHAPES["grey"], 17, 1))
    with pytest.raises(CodecError, match="tiles"):
        unpack(coder, pack_directory(json.dumps([["x", 0, 1 << 20, 1 << 20]]).encode()) + stream)


def test_a_directory_that_unpacks_to_far_more_than_the_file_is_refused() -> None:
    """A few kilobytes must not become gigabytes, nor a picture that is nearly all missing be set aside whole."""
    coder = codec("grey", 17)
    stream, _ = coder.encode(draws(SHAPES["grey"], 17, 1))
    with pytest.raises(CodecError, match="directory is over"):
        unpack(coder, pack_directory(b"[" + b"[]," * 4_000_000 + b"[]]") + stream)
    with pytest.raises(CodecError, match="tiles"):
        unpack(coder, pack_directory(json.dumps([["x", 0, 20_000, 20_000]]).encode()) + stream)
    with pytest.raises(CodecError, match="no directory"):
        unpack(coder, stream + stream)


def test_nothing_and_what_does_not_fit_are_refused() -> None:
    """Only the height and the width of images may differ from the model's."""
    coder = codec("grey", 17)
    with pytest.raises(UsageError, match="nothing to compress"):
        pack(coder, [])
    with pytest.raises(UsageError, match="only the height"):
        pack(coder, [Picture(np.zeros((3, 6, 6), dtype=int))])
    with pytest.raises(UsageError, match="only the height"):
        pack(codec("points", 17), [Picture(np.zeros(9, dtype=int))])
