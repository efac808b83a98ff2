"""A seeded zoo of data files, good and bad, for the tests of this folder."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """Integers over the whole range of a dtype."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True)


def png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W) or (H, W, 3) as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def image_folder(root: Path, count: int = 4, side: int = 8, grey: bool = True, start: int = 0) -> Path:
    """A folder of noise images 000.png, 001.png, …"""
    root.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        shape = (side, side) if grey else (side, side, 3)
        (root / f"{index:03d}.png").write_bytes(png(noise(*shape, seed=index)))
    return root


def png_bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes whose header promises width × height pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def npy(shape: str, dtype: str = "'<f4'", content: bytes = b"") -> bytes:
    """A .npy file whose header says what it is told to, whatever its content."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zipped(path: Path, **entries: bytes) -> Path:
    """A .npz file of raw entries."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in entries.items():
            archive.writestr(f"{key}.npy", content)
    return path


def shard(path: Path, members: dict[str, bytes]) -> Path:
    """A tar file of members in this order."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
