"""In which order channels go best when the layers behind them are refitted to what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-2
"""Strength of the ridge that draws refitted weights towards those that are there, times the mean variance of an input."""
ONE_BY_ONE = 128
"""So many channels go one by one; of more, an eighth of the others go before the errors are computed anew."""


@dataclass
class Consumer:
    """A layer that sums over the channels of a group, refitted after every removal."""

    inverse: Tensor
    """(columns, columns): of the covariance of its inputs, plus the ridge; only what is left counts."""
    weight: Tensor
    """(outputs, columns), fitted to what is left."""
    columns: Tensor
    """(channels, columns for each): which inputs are those of a channel; without meaning for channels that are gone."""
    power: float
    """Variance of its outputs, added up."""

    @classmethod
    def of(cls, covariance: Tensor, weight: Tensor, columns: Tensor) -> Consumer | None:
        """Return the layer before anything goes; None where its outputs do not vary."""
        power = float(((weight @ covariance) * weight).sum())
        ridge = RIDGE * covariance.diagonal().mean()
        if not power > 0 or not float(ridge) > 0:
            return None
        inverse = torch.linalg.inv(
            covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        )
        return cls(inverse, weight.clone(), columns.to(weight.device), power)

    def errors(self, channels: Tensor) -> Tensor:
        """Return what each of the channels costs alone, (channels,): error after refitting, as a share of the variance."""
        columns = self.columns[channels]
        own = self.inverse[columns[:, :, None], columns[:, None, :]]
        weight = self.weight.mT[columns]  # channels, columns for each, outputs
        solved: Tensor = torch.linalg.solve(own, weight)
        return (solved * weight).sum((1, 2)) / self.power

    def remove_(self, channels: Tensor) -> None:
        """Take channels away and refit the rest."""
        gone = self.columns[channels].flatten()
        stays = torch.ones(len(self.inverse), dtype=torch.bool, device=gone.device)
        stays[gone] = False
        across = self.inverse[gone][:, stays]
        moved = torch.linalg.solve(self.inverse[gone][:, gone], across)
        self.weight = self.weight[:, stays] - self.weight[:, gone] @ moved
        self.inverse = self.inverse[stays][:, stays] - across.mT @ moved
        self.columns = (stays.cumsum(0) - 1)[self.columns]


def removal_errors(consumers: Sequence[Consumer], channels: int) -> Tensor:
    """Return for each channel the error that there is when it and all that go before it are gone, (channels,) float64.

    Channels go greedily, those first whose removal adds least to the error of all `consumers`, each refitted by ridge
    least squares to what it gave with all channels: the error that the fit leaves is ``w (H_cc)^-1 w`` with w the weights
    of the channel and ``H_cc`` its block of the inverse of the inputs' covariance (Hassibi & Stork 1993, "Optimal Brain
    Surgeon"; for whole structures Kurtic et al. 2023, arXiv 2302.04089). It is a share of the variance of the
    consumers' outputs, added up over them.
    """
    scores = torch.zeros(channels, dtype=torch.float64)
    left = torch.arange(channels)
    total = 0.0
    while len(left):
        errors = torch.stack([consumer.errors(left).cpu() for consumer in consumers]).sum(0)
        order = errors.argsort(stable=True)[: max(1, (len(left) - ONE_BY_ONE) // 8)]
        along = total + errors[order].cumsum(0)
        scores[left[order]], total = along, float(along[-1])
        for consumer in consumers:
            consumer.remove_(left[order])
        stays = torch.ones(len(left), dtype=torch.bool)
        stays[order] = False
        left = left[stays]
    return scores
