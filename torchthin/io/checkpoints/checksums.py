"""The CRC-32 that a zip archive keeps of each record, which torch.load never looks at.

torch's own reader is built without the check, so one flipped byte of a weight loads without a word. A record whose
field is 0 has no checksum: torch leaves it 0 after ``torch.serialization.set_crc32_options(False)`` and for the storages
of ``skip_data``. The older torch format and safetensors have no such field.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

_CHUNK = 2**20


def load_checked(path: Path) -> Any:
    """Return what the torch file at `path` holds, on the CPU and without running code of its; checksums hold.

    Raises:
        zipfile.BadZipFile: a record is not what was written. Damage elsewhere raises what torch raises.
    """
    refuse_changed_bytes(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def refuse_changed_bytes(path: Path) -> None:
    """Raise BadZipFile when a record of the archive at `path` does not match its checksum; one pass, 1 MB at a time.

    Files that are no archives are left alone.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.CRC:
                _read_through(archive, record)


def _read_through(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> None:
    try:
        with archive.open(record) as file:
            while file.read(_CHUNK):
                pass
    except zipfile.BadZipFile as error:
        raise zipfile.BadZipFile(f"the bytes of {record.filename} do not match their checksum") from error


def record_bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a record of `archive`, held against its checksum if it has one."""
    record = archive.getinfo(name)
    if not record.CRC:
        record.CRC = None  # type: ignore[assignment]  # zipfile would hold the bytes against 0
    return archive.read(record)
