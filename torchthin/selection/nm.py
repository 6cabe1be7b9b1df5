"""N:M masks: n of every m weights side by side along the input dimension stay, as sparse tensor cores want them.

Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378); Zhou et al. 2021, "Learning N:M
Fine-grained Structured Sparse Neural Networks From Scratch" (arXiv 2102.04010).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchthin.selection.channels import weight_scores


def pattern_mask(scores: Tensor, n: int, m: int, axis: int) -> Tensor:
    """Return the mask that keeps the `n` highest of every `m` neighbours along an axis, ties by index (the lower goes).

    scores: of any shape whose size along `axis` is a multiple of `m`. Returns bool of its shape, True = keep.

    >>> pattern_mask(torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, 0.0, 5.0, 0.0]]), 2, 4, axis=1).int().tolist()
    [[1, 0, 0, 1, 0, 0, 1, 1]]
    """
    rows = scores.movedim(axis, -1)
    blocks = rows.reshape(*rows.shape[:-1], -1, m)
    order = torch.argsort(blocks, dim=-1, stable=True)
    keep = torch.ones_like(blocks, dtype=torch.bool).scatter_(-1, order[..., : m - n], False)
    return keep.reshape(rows.shape).movedim(-1, axis).contiguous()


def pattern_masks(
    weights: Mapping[str, tuple[Tensor, int]], n: int, m: int, criterion: str = "magnitude", seed: int = 0
) -> dict[str, Tensor]:
    """Return the n:m mask of every weight. weights: name -> (weight, its input axis, whose size m divides)."""
    masks = {}
    for name, (weight, axis) in weights.items():
        scores = weight_scores(name, weight, criterion, seed).reshape(weight.shape)
        masks[name] = pattern_mask(scores, n, m, axis).to(weight.device)
    return masks
