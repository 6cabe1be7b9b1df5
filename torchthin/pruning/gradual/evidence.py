"""What data tells of the channels at each step of a gradual run: gradients of the model as it is then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from torchthin.config import PruneConfig
from torchthin.dependency.groups import Group
from torchthin.errors import ConfigError, InputError
from torchthin.graph.inputs import Inputs, on_device_of
from torchthin.graph.parametrized import DerivedWeight
from torchthin.importance.channels import FloatArray, Measured
from torchthin.importance.removal import Consumer
from torchthin.importance.statistics import Loss, Measure
from torchthin.pruning.gradual.sharding import is_sharded


@dataclass(frozen=True)
class Evidence:
    """Inputs without labels, or a loss of the user's; the model is run on them at every step that grows the masks."""

    batches: tuple[Inputs, ...]
    loss: Loss | None = None

    def measure(self, model: nn.Module, derived: Mapping[str, DerivedWeight], config: PruneConfig) -> Measure:
        """Return the statistics of a model as it is now.

        Raises:
            InputError: the model is sharded.
        """
        if any(is_sharded(parameter) for parameter in model.parameters()):
            raise InputError(
                f"The criterion {config.ranked_by!r} of Pruner cannot look at a sharded model: its gradients are spread. "
                "Use DistributedDataParallel, or a criterion that looks at weights."
            )
        batches = tuple(on_device_of(model, batch) for batch in self.batches)
        return Measure(model, batches, derived, self.loss, config.seed)


@dataclass(frozen=True)
class Gradients(Measured):
    """What a criterion may ask for at a step: the channel graph was followed once, before training."""

    taken: Measure
    axes: Mapping[str, int]
    """Filter axis of every weight that makes channels."""
    criterion: str

    def effects(self, parameter: str, axis: int) -> FloatArray:
        """Return sum(w * g) over all weights of each index of an axis, for every draw of g: (draws, size of axis)."""
        return self.taken.effects(parameter, axis, self.axes)

    def magnitudes(self, group: Group) -> FloatArray:
        """Refuse: where values are consumed is not known any more."""
        raise _refusal(self.criterion)

    def consumers(self, group: Group) -> list[Consumer]:
        """Refuse: which layers read the channels is not known any more."""
        raise _refusal(self.criterion)


def _refusal(criterion: str) -> ConfigError:
    return ConfigError(
        f"The criterion {criterion!r} of Pruner must be one of weights or gradients, such as l1 or taylor: values inside the "
        "model are followed once, before training. torchthin.prune takes it."
    )
