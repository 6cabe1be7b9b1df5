"""The pose student: a MAX78000-sized network that finds 18 keypoints and 19 limbs of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchthin.io.checkpoints import read_state
from torchthin.max7800x.ai8x.layers import Conv2d, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU

INPUT_SHAPE = (3, 128, 128)
HEATMAPS = 19
PAFS = 38
STRIDE = 8
ARCH = "pose_student"
STUDENT_FILE = Path(__file__).parent / "data" / "student.pth"


class PoseStudent(nn.Module):
    """Heatmaps and part affinity fields of people, after OpenPose (Cao et al. 2017), in ai8x layers.

    Input (N, 3, 128, 128) in [-1, 127/128]; output a list of heatmaps (N, 19, 16, 16), 18 OpenPose keypoints
    and the background, and part affinity fields (N, 38, 16, 16), x and y of 19 limbs. Any input side
    that is a multiple of 8 works.
    """

    def __init__(self) -> None:
        super().__init__()
        same: dict[str, Any] = {"padding": 1}
        self.conv1 = FusedConv2dBNReLU(3, 24, 3, stride=2, **same)
        self.conv2 = FusedConv2dBNReLU(24, 24, 3, **same)
        self.conv3 = FusedConv2dBNReLU(24, 48, 3, **same)
        self.conv4 = FusedMaxPoolConv2dBNReLU(48, 48, 3, **same)
        self.conv5 = FusedConv2dBNReLU(48, 64, 3, **same)
        self.conv6 = FusedMaxPoolConv2dBNReLU(64, 64, 3, **same)
        self.conv7 = FusedConv2dBNReLU(64, 96, 3, **same)
        self.conv8 = FusedConv2dBNReLU(96, 96, 3, **same)
        self.cpm1 = FusedConv2dBNReLU(96, 64, 1)
        self.cpm2 = FusedConv2dBNReLU(64, 64, 3, **same)
        self.cpm3 = FusedConv2dBNReLU(64, 64, 3, **same)
        self.heat_conv = FusedConv2dBNReLU(64, 48, 1)
        self.heat_out = Conv2d(48, HEATMAPS, 1, wide=True)
        self.paf_conv = FusedConv2dBNReLU(64, 48, 1)
        self.paf_out = Conv2d(48, PAFS, 1, wide=True)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return ``[heatmaps, part affinity fields]`` for images (N, 3, H, W)."""
        x = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        x = self.conv8(self.conv7(self.conv6(self.conv5(x))))
        x = self.cpm3(self.cpm2(self.cpm1(x)))
        return [self.heat_out(self.heat_conv(x)), self.paf_out(self.paf_conv(x))]


def pose_student() -> PoseStudent:
    """Return an untrained PoseStudent; the shipped weights are loaded by `load_student`."""
    return PoseStudent()


def load_student() -> PoseStudent:
    """Return the trained student of the repository, in eval mode; its file also records its score."""
    model = PoseStudent()
    model.load_state_dict(
        read_state(STUDENT_FILE, "student", ("state_dict",), "Restore it from the repository.")["state_dict"]
    )
    return model.eval()
