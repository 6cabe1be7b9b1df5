"""The student's file: written as ai8x-training names its parts, with the score it reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pose_demo.score import score_validation
from pose_demo.student import ARCH, PoseStudent
from torchthin.io.checkpoints import read_state, write_state


def save_student(path: Path, model: nn.Module, steps: int, extras: dict[str, Any]) -> None:
    """Write a checkpoint as ai8x-training names its parts: state_dict, epoch, arch, extras; plain types only.

    `epoch` is 0 in the file: ai8x-training fuses BatchNorm when it is past the start of quantisation-aware
    training.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    contents = {"state_dict": state, "epoch": 0, "arch": ARCH, "extras": {"steps": steps, **extras}}
    write_state(path, "student", contents)


def record_score(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Score the student at `path` on the shipped validation set, write the score into it and return it."""
    contents = read_state(path, "student", ("state_dict", "extras"), "Train it again.")
    model = PoseStudent()
    model.load_state_dict(contents["state_dict"])
    reached = score_validation(model.to(device), device).to_dict()
    contents["extras"]["validation"] = reached
    write_state(path, "student", contents)
    return reached
