"""Checkpoint files: read without running any code of theirs, fitted to a model, written whole or not."""

from torchthin.checkpoints.content import Checkpoint
from torchthin.checkpoints.fitting import load_into, refuse_bad_numbers
from torchthin.checkpoints.reading import read_checkpoint
from torchthin.checkpoints.writing import PrunedCheckpoint, check_destination, write_checkpoint

__all__ = [
    "Checkpoint",
    "PrunedCheckpoint",
    "check_destination",
    "load_into",
    "read_checkpoint",
    "refuse_bad_numbers",
    "write_checkpoint",
]
