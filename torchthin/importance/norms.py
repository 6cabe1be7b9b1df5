"""Criteria that look at the size of weights only, after Li et al. 2017 (arXiv 1608.08710).

The norms are divided by the number of weights, as Distiller does. That changes no order inside one tensor,
but it makes members of one group comparable when they are summed. `torch.linalg.vector_norm` over flattened
rows is bit for bit what Distiller computes; ``abs().sum()`` differs in the last bits, which can split ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchthin.importance.registry import register_criterion


@register_criterion("l1")
def l1(rows: Tensor) -> Tensor:
    """Return the mean of ``|w|`` per row. rows: (channels, weights per channel)."""
    norms: Tensor = torch.linalg.vector_norm(rows, ord=1, dim=1)
    return norms / rows.shape[1]


@register_criterion("l2")
def l2(rows: Tensor) -> Tensor:
    """Return the L2 norm divided by the number of weights, per row. rows: (channels, weights per channel)."""
    norms: Tensor = torch.linalg.vector_norm(rows, ord=2, dim=1)
    return norms / rows.shape[1]


@register_criterion("max")
def largest(rows: Tensor) -> Tensor:
    """Return the largest ``|w|`` per row. rows: (channels, weights per channel)."""
    return rows.abs().amax(dim=1)
