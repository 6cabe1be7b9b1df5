"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("torchthin")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
