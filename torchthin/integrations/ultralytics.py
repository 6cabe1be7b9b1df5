"""Prune a ``YOLO`` object of ultralytics, and train what is left with its own trainer.

::

    yolo = YOLO("yolo11n.pt")
    print(prune(yolo, 0.5).report)                      # yolo.model is smaller from here on
    yolo.train(trainer=trainer(yolo), data="coco8.yaml", epochs=10)
    yolo.save("thin.pt")                                # YOLO("thin.pt") loads it without this package

Nothing of ultralytics is imported: the object is used by what it has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchthin import api
from torchthin.config import Target
from torchthin.errors import ConfigError, InputError
from torchthin.pruning.result import PruneResult

_FEATURES = (
    "feats"  # the maps that a head reads; it hands them out again, and the loss asks only for their sizes
)


def prune(
    yolo: Any, target: Target | float = 0.5, *, example_inputs: Tensor | None = None, **options: Any
) -> PruneResult:
    """Prune the network of a ``YOLO`` object, and put the thinned one in its place.

    Args:
        yolo: an ``ultralytics.YOLO`` (or any of its models) that holds a PyTorch model, before it predicts or exports: both
            fold BatchNorm.
        target: see `torchthin.prune`.
        example_inputs: (batch, channels, height, width), pictures from 0 to 1; by default random ones of the size that the
            network was trained for.
        options: of `torchthin.prune`.

    Raises:
        InputError: `yolo` holds no PyTorch model, or what `torchthin.prune` raises.
    """
    net = _network(yolo)
    if example_inputs is None:
        size = getattr(yolo, "overrides", {}).get("imgsz") or 640
        channels = getattr(net, "yaml", {}).get("channels") or 3
        example_inputs = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(
            next(net.parameters()).device
        )
    handle = net.register_forward_hook(_without_features)
    try:
        result = api.prune(net, example_inputs, target, **options)
    finally:
        handle.remove()
    result.model._forward_hooks.pop(handle.id, None)  # the copy has it too
    _set_halves_(result.model)
    yolo.model = result.model
    yolo.ckpt = {
        **(yolo.ckpt or {}),
        "model": result.model,
    }  # the trainer asks this for weights to start from
    yolo.predictor = None  # holds the network of before
    return result


def trainer(yolo: Any) -> type:
    """Return the trainer class of a ``YOLO`` object's task, for ``yolo.train(trainer=...)``, which keeps the shapes.

    That of ultralytics makes a full-size network from its description and loads what fits. This one trains the network that
    it is given, also when a run is resumed: ``YOLO("last.pt").train(trainer=trainer(yolo), resume=True)``. It runs in one
    process: ultralytics starts others (several devices) with classes that they can import.

    Raises:
        InputError: `yolo` holds no PyTorch model.
    """
    _network(yolo)
    base: Any = yolo.task_map[yolo.task]["trainer"]

    class ThinTrainer(base):  # type: ignore[misc]
        """Trains the network that it is given as it is."""

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            if not isinstance(weights, nn.Module):
                raise InputError(
                    "The trainer must start from the thinned network: prune the YOLO object, or load it from its file, and "
                    "leave out pretrained=False."
                )
            _check_classes(weights, self.data)
            return weights.float().requires_grad_(True)

    return ThinTrainer


def _network(yolo: Any) -> nn.Module:
    net = getattr(yolo, "model", None)
    if not isinstance(net, nn.Module) or not hasattr(yolo, "task_map"):
        raise InputError(
            f"yolo must be an ultralytics.YOLO that holds a PyTorch model. Got {type(yolo).__name__}; load a .pt or .yaml file."
        )
    return net


def _check_classes(net: nn.Module, data: Any) -> None:
    """Raise `ConfigError` if the data has other classes than the network."""
    has, wanted = len(getattr(net, "names", ())), data.get("nc") if isinstance(data, dict) else None
    if has and wanted and has != wanted:
        raise ConfigError(
            f"data must have the {has} classes of the thinned network. It has {wanted}; train the full-size network on it first, "
            "then prune."
        )


def _set_halves_(net: nn.Module) -> None:
    """Write the new width of a half into blocks that chunk in their forward, and split by a number kept for the export."""
    block: Any
    for block in net.modules():
        if hasattr(block, "forward_split") and isinstance(getattr(block, "c", None), int):
            block.c = block.cv1.conv.out_channels // 2


def _without_features(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook: what a network predicts, without its inner maps, which would be kept as a part of the output."""
    if isinstance(output, dict):
        return {name: _without_features(module, inputs, v) for name, v in output.items() if name != _FEATURES}
    if type(output) in (tuple, list):
        return type(output)(_without_features(module, inputs, v) for v in output)
    return output
