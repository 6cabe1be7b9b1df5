"""Checkpoint files: read without running any code of theirs, fitted to a model, written whole or not."""

from torchthin.io.checkpoints.content import Checkpoint
from torchthin.io.checkpoints.fit import load_into, refuse_bad_numbers
from torchthin.io.checkpoints.read import read_checkpoint
from torchthin.io.checkpoints.write import PrunedCheckpoint, check_destination, write_checkpoint

__all__ = [
    "Checkpoint",
    "PrunedCheckpoint",
    "check_destination",
    "load_into",
    "read_checkpoint",
    "refuse_bad_numbers",
    "write_checkpoint",
]
