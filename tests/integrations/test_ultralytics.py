"""A YOLO object is pruned in place and trained at its new shapes: on a stand-in. A tutorial runs the package."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchthin.errors import ConfigError, InputError
from torchthin.integrations.ultralytics import prune, trainer

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Chunks in its forward, and keeps the width of a half for the export."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 8
        self.cv1 = nn.Module()
        self.cv1.conv = nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1.conv(x).relu().chunk(2, 1)
        return first * second

    def forward_split(self, x: Tensor) -> Tensor:
        first, second = self.cv1.conv(x).relu().split((self.c, self.c), 1)
        return first * second


class Net(nn.Module):
    """Hands out the maps that its head reads, as detectors of ultralytics do."""

    names = ("cat", "dog")

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), Block(), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Any:
        map_ = self.block(self.stem(x))
        return self.head(map_), {"boxes": [self.head(map_)], "feats": [map_]}


class BaseTrainer:
    def __init__(self, classes: int) -> None:
        self.data = {"nc": classes}

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        return Net()


class Yolo:
    """What is used of ``ultralytics.YOLO``."""

    task, overrides = "detect", {"imgsz": 16}

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.ckpt, self.predictor = Net().eval(), None, object()
        self.task_map = {"detect": {"trainer": BaseTrainer}}


def test_the_maps_that_a_head_hands_out_are_cut_and_its_trainer_keeps_the_shapes() -> None:
    yolo = Yolo()
    result = prune(yolo, 0.5)
    assert yolo.model is result.model and yolo.predictor is None and yolo.ckpt == {"model": result.model}
    assert result.proof is not None and result.proof.exact
    assert result.model.stem.out_channels == 4 and result.model.head.in_channels == 4
    assert set(result.model(X)[1]) == {"boxes", "feats"}  # the hook of the pruning is gone
    block = result.model.block
    assert block.c == 4 and torch.equal(
        block(result.model.stem(X)), block.forward_split(result.model.stem(X))
    )
    started = trainer(yolo)(2).get_model("yolo.yaml", weights=yolo.model)
    assert started is yolo.model and all(p.requires_grad for p in started.parameters())


def test_what_the_trainer_would_make_anew_is_refused() -> None:
    yolo = Yolo()
    with pytest.raises(InputError, match="leave out pretrained=False"):
        trainer(yolo)(2).get_model("yolo.yaml")
    with pytest.raises(ConfigError, match=r"2 classes of the thinned network. It has 7"):
        trainer(yolo)(7).get_model("yolo.yaml", weights=yolo.model)
    yolo.model = "yolo.onnx"  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"holds a PyTorch model. Got Yolo"):
        prune(yolo)
