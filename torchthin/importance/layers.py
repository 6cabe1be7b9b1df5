"""What whole layers do to the stream that goes through them: block influence (ShortGPT, arXiv 2403.03853)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from torchthin.graph.clone import clone, modules_of, share
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import Inputs, call
from torchthin.graph.layers import Argument, watch_


def block_influence(model: nn.Module, paths: Sequence[str], batches: Sequence[Inputs]) -> Mapping[str, float]:
    """Return for every layer 1 - cos(what it is given, what it returns), the mean over all places of all inputs.

    A layer that changes the stream little can be left out at little loss. Places that an attention mask
    leaves out do not count.
    """
    made = clone(model, share)
    widths = {path: _widths(module) for path, module in modules_of(made) if path in set(paths)}
    sums = dict.fromkeys(paths, 0.0)
    counts = dict.fromkeys(paths, 0)
    mask: Tensor | None = None

    def note(path: str, stream: Argument, given: Tensor, result: Tensor) -> None:
        axis = _channel_axis(given, widths[path])
        alike = cosine_similarity(given.float(), result.float(), dim=axis, eps=1e-12)
        if mask is not None and mask.shape == alike.shape:
            alike = alike[mask.bool()]
        sums[path] += float((1 - alike.double()).sum())
        counts[path] += alike.numel()

    watch_(made, paths, note)
    with evaluation_mode(made, disposable=True), torch.no_grad():
        for batch in batches:
            mask = (batch.kwargs or {}).get("attention_mask")
            call(made, batch)
    return {path: max(sums[path], 0.0) / max(counts[path], 1) for path in paths}


def _widths(module: nn.Module) -> set[int]:
    """Return how many numbers its vectors have: weights of norms, biases."""
    return {parameter.numel() for parameter in module.parameters() if parameter.dim() == 1}


def _channel_axis(stream: Tensor, widths: set[int]) -> int:
    """Return the axis along which the channels are: the last one that is as long as a vector of the layer, never the first."""
    axes = [axis for axis in range(stream.dim() - 1, 0, -1) if stream.shape[axis] in widths]
    return axes[0] if axes else stream.dim() - 1
