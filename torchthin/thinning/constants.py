"""Where the constant of removed channels goes: into the consumer's bias, or out of the running mean of the BatchNorm after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.graph.clone import modules_of, saved_names
from torchthin.graph.operators import ADDITIONS, BATCH_NORMS, VIEWS
from torchthin.graph.opgraph import BRANCH, Op
from torchthin.graph.parametrized import layer_of
from torchthin.graph.provenance import Origin, origin
from torchthin.thinning.proof.reference import Constant
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.survivors import ROUNDING, Survivors


@dataclass(frozen=True)
class Absorption:
    """Add `sign` times the constant to a tensor of the model."""

    name: str
    sign: int
    constant: Constant
    new: bool = False
    """The tensor is a bias that the layer did not have."""
    between: tuple[int, ...] = ()
    """Indices of ops between the one that made the constant and the one that adds it."""
    through_function: bool = False
    """The bias passes through functions that change it, or is read elsewhere as well (ai8x does both), so that the
    constant is no plain addition: the reference must hold it in its bias, too."""
    factor: float = 1.0
    """About how many times those functions let the bias in."""

    @property
    def change(self) -> Tensor:
        """What is added to the full-size tensor, shape (output channels,)."""
        return self.sign * self.constant.delta / self.factor


@dataclass(frozen=True)
class Absorptions:
    """Where all constants go."""

    tensors: tuple[Absorption, ...] = ()
    """One for every tensor that absorbs a constant."""
    train_branch: tuple[Absorption, ...] = ()
    """The same ones as the training branch meets them."""
    unabsorbed: tuple[Constant, ...] = ()
    """Constants that no tensor can absorb."""

    def refused(self, exact: bool) -> tuple[Constant, ...]:
        """Return the constants that must be zero instead; `exact`: also those that a bias could only hold nearly."""
        rounded = tuple(item.constant for item in self.in_all_runs if item.through_function)
        return self.unabsorbed + (rounded if exact else ())

    @property
    def in_all_runs(self) -> tuple[Absorption, ...]:
        """All as each run meets them."""
        return (*self.tensors, *self.train_branch)


def find_absorptions(
    model: nn.Module,
    labels: Labels,
    constants: Sequence[Constant],
    tensors: Mapping[str, Tensor],
    *,
    add_biases: bool = False,
) -> Absorptions:
    """Find a tensor that absorbs each constant.

    A tensor that several ops take for a bias (a module called twice) absorbs a constant only when all ask for the same;
    so does one that both the evaluation run and the training branch read.

    Args:
        model: full-size model.
        labels: its labels.
        constants: what removed channels emit, in the evaluation run and, where that was run, in the training branch.
        tensors: the model's full-size tensors by name, in the precision of the constants.
        add_biases: give a layer that has no bias one.
    """
    if not constants:
        return Absorptions()
    here = [constant for constant in constants if constant.op.index < BRANCH]
    there = [constant for constant in constants if constant.op.index >= BRANCH]
    slots, branch_slots = (
        _BiasSlots(model, labels, tensors, training, add_biases) for training in (False, True)
    )
    found, unabsorbed = _agreed(slots, here)
    if not there:
        return Absorptions(tuple(found.values()), (), tuple(unabsorbed))
    in_branch, rest = _agreed(branch_slots, there)
    unabsorbed += rest
    for name in found.keys() | in_branch.keys():
        first, second = found.get(name), in_branch.get(name)
        if first is None and second is not None and not slots.meets(second):
            found[name] = second
        elif first is None or (second is None and branch_slots.meets(first)):
            unabsorbed += [item.constant for item in (first, second) if item is not None]
        elif second is not None and not torch.allclose(first.constant.delta, second.constant.delta):
            unabsorbed.append(second.constant)
    train_branch = tuple(item for name, item in in_branch.items() if found.get(name) not in (None, item))
    return Absorptions(tuple(found.values()), train_branch, tuple(unabsorbed))


def _agreed(slots: _BiasSlots, constants: Iterable[Constant]) -> tuple[dict[str, Absorption], list[Constant]]:
    """Return the absorptions of one run by tensor, and the constants that no tensor can absorb."""
    found: dict[str, list[Absorption]] = {}
    unabsorbed: list[Constant] = []
    for constant in constants:
        item = slots.find(constant)
        if item is None or not slots.lasts(item):
            unabsorbed.append(constant)
        else:
            found.setdefault(item.name, []).append(item)
    agreed = {}
    for name, wanted in found.items():
        first = wanted[0].constant.delta
        same = all(_same(first, item.constant.delta) for item in wanted[1:])
        if same and len(wanted) >= slots.calls(wanted[0]):
            agreed[name] = wanted[0]
        else:
            unabsorbed.extend(item.constant for item in wanted)
    return agreed, unabsorbed


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two constants are equal but for rounding: each number is a sum, so its error goes with the largest."""
    return torch.allclose(a, b, rtol=0.0, atol=ROUNDING * float(a.abs().max()))


class _BiasSlots:
    """The tensors that can absorb the constants of one run."""

    def __init__(
        self,
        model: nn.Module,
        labels: Labels,
        tensors: Mapping[str, Tensor],
        training: bool,
        add_biases: bool,
    ) -> None:
        self._add_biases = add_biases
        self._modules = dict(modules_of(model))
        self._saved = saved_names(model)
        self._tensors = tensors
        self._graph, self._training = labels.graph, training
        ops = [op for op in labels.graph.ops if op.trained == training]
        self._ran = {op.source.module for op in ops}
        contractions = [(op, labels.contractions[op.index]) for op in ops if op.index in labels.contractions]
        biases = [op.value(contraction.bias) for op, contraction in contractions]
        found = [self._origin(value) for value in biases if value is not None]
        self._biases = Counter(item.name for item in found if item is not None)
        self._called = Counter(path for op, c in contractions for path in self._layers(op, c))

    def _layers(self, op: Op, contraction: Contraction) -> set[str]:
        """Return the modules whose new bias the op would add: its own, and the one that holds the weight."""
        found = self._origin(contraction.weight)
        return {op.source.module} | (set() if found is None else {layer_of(found.name)})

    def calls(self, item: Absorption) -> int:
        """Count how often a tensor is a bias, or read if it is none; of a new bias, how often its layer is called."""
        if item.new:
            return self._called[layer_of(item.name)]
        return self._biases[item.name] or self._reads(item.name)

    def lasts(self, item: Absorption) -> bool:
        """Whether a checkpoint would hold the tensor that absorbs a constant."""
        return item.new or item.name in self._saved

    def meets(self, item: Absorption) -> bool:
        """Whether the run reads the tensor that absorbs a constant, or calls the module that gets a bias."""
        return item.constant.op.source.module in self._ran if item.new else self._reads(item.name) > 0

    def find(self, constant: Constant) -> Absorption | None:
        """Return what absorbs a constant, if there is something."""
        bias = constant.op.value(constant.contraction.bias)
        if bias is None:
            return self._after(constant) or (self._new_bias(constant) if self._add_biases else None)
        found = self._origin(bias)
        if found is None:
            return None
        name, between = found.name, tuple(op.index for op, _ in found.path)
        factor = _factor(self._tensors[name], constant.bias)
        if factor is None and self._reads(name) == self._biases[name]:
            return Absorption(name, 1, constant, between=between)
        return Absorption(name, 1, constant, through_function=True, factor=factor or 1.0)

    def _users(self, value: int) -> list[Op]:
        """Return the ops of the run that read a value, one entry for each argument."""
        return [op for op in self._graph.users.get(value, ()) if op.trained == self._training]

    def _reads(self, name: str) -> int:
        return len(self._users(self._graph.state[name])) if name in self._graph.state else 0

    def _origin(self, value: int) -> Origin | None:
        """Return the tensor that a value is, or is computed from with the same shape at every step."""
        found = origin(self._graph, value)
        if found is None:
            return None
        steps = [self._graph.state[found.name], *(step for _, step in found.path)]
        return found if len({self._graph.values[step].shape for step in steps}) == 1 else None

    def _after(self, constant: Constant) -> Absorption | None:
        """Look through views for a BatchNorm, or for a bias that is added, after the op."""
        result = constant.op.results[0]
        between = [constant.op.index]
        while len(following := self._users(result)) == 1:
            op = following[0]
            if op.name in BATCH_NORMS:
                mean = op.value("running_mean")
                name = None if mean is None else self._graph.names.get(mean)
                return Absorption(name, -1, constant, between=tuple(between)) if name is not None else None
            if op.name in ADDITIONS:
                names, values = self._graph.names, self._graph.values
                biases = [
                    v for v in op.reads if v in names and values[v].shape == tuple(constant.delta.shape)
                ]
                return Absorption(names[biases[0]], 1, constant, between=tuple(between)) if biases else None
            if op.name not in VIEWS:
                return None
            between.append(op.index)
            result = op.results[0]
        return None

    def _new_bias(self, constant: Constant) -> Absorption | None:
        """A convolution or linear layer without bias gets one.

        It is the op's own module, or the one that holds the weight: wrappers such as ai8x's use the weight of a layer
        that they never call. Whether their code looks at the bias is for the trial to find out.
        """
        own = constant.op.source.module
        for path in (own, *(self._layers(constant.op, constant.contraction) - {own})):
            module = self._modules.get(path)
            outputs = getattr(module, "out_channels", getattr(module, "out_features", None))
            fits = outputs == len(constant.delta)  # not where code takes the weight transposed
            if isinstance(module, (_ConvNd, nn.Linear)) and module.bias is None and fits:
                return Absorption(f"{path}.bias" if path else "bias", 1, constant, new=True)
        return None


def _factor(given: Tensor, used: Tensor | None) -> float | None:
    """Return how many times the bias that was given was used; None where it was used as it is."""
    if used is None or torch.equal(given, used):
        return None
    given, used = given.flatten().double(), used.flatten().double()
    factor = float(given @ used / (given @ given).clamp_min(torch.finfo(torch.float64).tiny))
    return factor or 1.0


def absorbed_tensors(
    absorptions: Iterable[Absorption], recipe: Recipe, tensors: Mapping[str, Tensor], survivors: Survivors
) -> dict[str, Tensor]:
    """Return every tensor that absorbs a constant, thinned and with the constant in it.

    Args:
        absorptions: what goes where.
        recipe: what thins the model.
        tensors: full-size tensors by name; biases that the recipe adds are not among them.
        survivors: which output channels are kept.
    """
    found: dict[str, Tensor] = {}
    for item in absorptions:
        kept = survivors.along(item.constant.op.results[0], item.constant.contraction.out_axis)
        change = item.change
        if kept is not None:
            change = change[torch.from_numpy(kept).to(change.device)]
        if item.new:
            found[item.name] = change
            continue
        tensor = cut(tensors[item.name].detach(), recipe.keep.get(item.name, {}))
        found[item.name] = (tensor.double() + change.to(tensor.device).double()).to(tensor.dtype)
    return found
