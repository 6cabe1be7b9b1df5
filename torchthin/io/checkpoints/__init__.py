"""Checkpoint files: read without running any code of theirs, compared with a model, written complete or not at all."""

from torchthin.io.checkpoints.content import Checkpoint
from torchthin.io.checkpoints.fit import load_into
from torchthin.io.checkpoints.read import read_checkpoint, read_saved, read_state
from torchthin.io.checkpoints.shards import are_large
from torchthin.io.checkpoints.write import write_checkpoint, write_state, write_torch

__all__ = [
    "Checkpoint",
    "are_large",
    "load_into",
    "read_checkpoint",
    "read_saved",
    "read_state",
    "write_checkpoint",
    "write_state",
    "write_torch",
]
