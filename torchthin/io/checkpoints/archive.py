"""The zip archive that torch.save writes: its checksums, and its contents with placeholders for foreign classes.

torch's own reader never looks at the CRC-32 that a zip archive has of each record, so one flipped byte of a weight loads
without an error. A record whose field is 0 has no checksum: torch leaves it 0 after
``torch.serialization.set_crc32_options(False)`` and for the storages of ``skip_data``. The torch format before 1.6 and
safetensors have no such field.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from torchthin.io.checkpoints.safe_pickle import SafeUnpickler, named_globals, refuse_code_runners

_CHUNK = 2**20
_MOST_UNPACKED = 50
"""Times the bytes of an archive that its records may unpack to; torch itself does not compress."""


def load_checked(path: Path) -> Any:
    """Return what the torch file at `path` holds, on the CPU, with ``weights_only=True``; its checksums are compared.

    Raises:
        zipfile.BadZipFile: a record does not match its checksum, or they unpack to far more than is there.
            Other damage raises what torch raises.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _refuse_bomb(path, archive)
            for record in archive.infolist():
                if record.CRC:
                    _compare_checksum(archive, record)
    return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_bomb(path: Path, archive: zipfile.ZipFile) -> None:
    unpacked, held = sum(record.file_size for record in archive.infolist()), path.stat().st_size
    if unpacked > max(_MOST_UNPACKED * held, 2**24):
        raise zipfile.BadZipFile(f"it has {held:,} bytes that unpack to {unpacked:,}")


def _compare_checksum(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    try:
        with archive.open(record) as file:
            while file.read(_CHUNK):  # zipfile compares at the end
                pass
    except zipfile.BadZipFile as error:
        raise zipfile.BadZipFile(f"the bytes of {record.filename} do not match their checksum") from error


def read_archive(path: Path) -> object:
    """Return what the torch archive at `path` holds, on the CPU, with placeholders for what is foreign.

    Raises:
        CheckpointError: the archive names something that serves only to run code. A damaged archive raises many kinds of
            other exceptions (``BadZipFile``, ``KeyError``, ``UnpicklingError`` ...).
    """
    with zipfile.ZipFile(path) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/data.pkl")).removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and _record_bytes(archive, order) != b"little":
            raise pickle.UnpicklingError("written on a big-endian machine")
        flat: dict[str, torch.Tensor] = {}

        def storage(key: str) -> torch.Tensor:
            if key not in flat:
                data = bytearray(_record_bytes(archive, f"{root}data/{key}"))
                flat[key] = (
                    torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
                )
            return flat[key]

        program = io.BytesIO(_record_bytes(archive, f"{root}data.pkl"))
        refuse_code_runners(path, named_globals(program))
        program.seek(0)
        return SafeUnpickler(program, storage).load()


def _record_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a record of `archive`, compared with its checksum if it has one."""
    record = archive.getinfo(name)
    if not record.CRC:
        record.CRC = None  # type: ignore[assignment]  # zipfile would compare the bytes with 0
    return archive.read(record)
