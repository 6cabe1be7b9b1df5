"""Removed hidden states must stay at zero at every step, which an example of one step does not show."""

from __future__ import annotations

import numpy as np
import torch

from torchthin.graph.provenance import origin
from torchthin.graph.recurrent import RecurrentState
from torchthin.thinning.search.constraints import Proposal
from torchthin.thinning.search.outcome import Failure


def moving_states(proposal: Proposal) -> Failure | None:
    """Return a failure where biases would move removed states after the one step that the example has.

    A state behind a projection has no bias: what moves its cell already shows in the first step.
    """
    labels = proposal.labels
    moving = {
        state.weight
        for state in labels.graph.single_steps
        if state.projection is None and _moves(proposal, state)
    }
    for index, contraction in labels.contractions.items():
        read = origin(labels.graph, contraction.weight) if moving else None
        if read is not None and read.name in moving:
            text = "biases would move these hidden states after the one step of the example"
            place = (index, contraction.data, contraction.data_axis)
            kept = proposal.survivors.along(*place[1:])
            gone = () if kept is None else tuple(np.flatnonzero(~kept).tolist())
            return Failure(index, text, alive={place: gone})
    return None


def _moves(proposal: Proposal, state: RecurrentState) -> bool:
    kept = proposal.survivors.along(proposal.labels.graph.state[state.weight], 0)
    if kept is None:
        return False
    gone = ~kept.reshape(state.gates, -1)
    gone[np.arange(state.gates) != state.source] = False
    rows = torch.from_numpy(gone.reshape(-1))
    tensors, masks = proposal.traced.tensors, proposal.masks
    return any(
        bool((tensors[name].detach().cpu()[rows] * (masks[name].cpu()[rows] if name in masks else 1)).any())
        for name in state.biases
    )
