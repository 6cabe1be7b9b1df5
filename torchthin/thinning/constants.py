"""Where the constant of dead channels goes: into the consumer's bias, or out of the running mean of the BatchNorm behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchthin.dependency.propagate import Labels
from torchthin.dependency.registry import Contraction
from torchthin.dependency.rules.normalization import BATCH_NORMS
from torchthin.graph.clone import modules_of, saved_names
from torchthin.graph.opgraph import BRANCH, Op, Ref
from torchthin.graph.parametrized import layer_of
from torchthin.thinning.recipe import Recipe, cut
from torchthin.thinning.reference import Constant, Kept

ROUNDING = 1e-5
"""Share of the largest number by which constants of two calls may differ."""


@dataclass(frozen=True)
class Fold:
    """Add `sign` times the constant to a tensor of the model."""

    name: str
    sign: int
    constant: Constant
    new: bool = False
    """The tensor is a bias that the module left out."""
    between: tuple[int, ...] = ()
    """Indices of ops between the one that made the constant and the one that adds it."""
    carried: bool = False
    """The bias passes through functions that change it, or is read elsewhere as well (ai8x does both), so that the
    constant is no plain addition: the reference must hold it in its bias, too."""
    factor: float = 1.0
    """About how many times those functions let the bias in."""

    @property
    def change(self) -> Tensor:
        """What is added to the full-size tensor, shape (output channels,)."""
        return self.sign * self.constant.delta / self.factor


@dataclass(frozen=True)
class Folds:
    """Where all constants go."""

    folds: tuple[Fold, ...]
    """One for every tensor that takes a constant."""
    twins: tuple[Fold, ...]
    """The same folds as the training branch meets them."""
    homeless: tuple[Constant, ...]
    """Constants that have no place."""


def plan_folds(
    model: nn.Module, labels: Labels, constants: Sequence[Constant], tensors: Mapping[str, Tensor]
) -> Folds:
    """Find a place for every constant.

    A tensor that several ops take for a bias (a module called twice) takes a constant only when all ask for the same;
    so does one that both the evaluation run and the training branch read.

    Args:
        model: full-size model.
        labels: its labels.
        constants: what dead channels emit, in the evaluation run and, where that was run, in the training branch.
        tensors: the model's full-size tensors by name, in the precision of the constants.
    """
    if not constants:
        return Folds((), (), ())
    own = [constant for constant in constants if constant.op.index < BRANCH]
    others = [constant for constant in constants if constant.op.index >= BRANCH]
    places, branch = (_Places(model, labels, tensors, training) for training in (False, True))
    folds, homeless = _agreed(places, own)
    if not others:
        return Folds(tuple(folds.values()), (), tuple(homeless))
    more, rest = _agreed(branch, others)
    homeless += rest
    for name in folds.keys() | more.keys():
        first, second = folds.get(name), more.get(name)
        if first is None and second is not None and not places.meets(second):
            folds[name] = second
        elif first is None or (second is None and branch.meets(first)):
            homeless += [fold.constant for fold in (first, second) if fold is not None]
        elif second is not None and not torch.allclose(first.constant.delta, second.constant.delta):
            homeless.append(second.constant)
    twins = [fold for name, fold in more.items() if folds.get(name) not in (None, fold)]
    return Folds(tuple(folds.values()), tuple(twins), tuple(homeless))


def _agreed(places: _Places, constants: Iterable[Constant]) -> tuple[dict[str, Fold], list[Constant]]:
    """Return the folds of one run by the tensor that takes them, and the constants that have no place."""
    found: dict[str, list[Fold]] = {}
    homeless: list[Constant] = []
    for constant in constants:
        fold = places.find(constant)
        if fold is None or not places.lasts(fold):
            homeless.append(constant)
        else:
            found.setdefault(fold.name, []).append(fold)
    folds = {}
    for name, wanted in found.items():
        first = wanted[0].constant.delta
        agreed = all(_same(first, fold.constant.delta) for fold in wanted[1:])
        if agreed and len(wanted) >= places.calls(wanted[0]):
            folds[name] = wanted[0]
        else:
            homeless.extend(fold.constant for fold in wanted)
    return folds, homeless


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two constants are equal but for rounding: each number is a sum, so its error goes with the largest."""
    return torch.allclose(a, b, rtol=0.0, atol=ROUNDING * float(a.abs().max()))


class _Places:
    """Where the constants of one run can go."""

    def __init__(
        self, model: nn.Module, labels: Labels, tensors: Mapping[str, Tensor], training: bool
    ) -> None:
        self._modules = dict(modules_of(model))
        self._saved = saved_names(model)
        self._tensors = tensors
        self._state = labels.graph.state
        self._names = {number: name for name, number in self._state.items()}
        self._shapes = [value.shape for value in labels.graph.values]
        ops = [op for op in labels.graph.ops if op.trained == training]
        self._ran = {op.source.module for op in ops}
        self._makers = {ref.value: op for op in ops for ref in op.outputs if ref is not None}
        self._users: dict[int, list[Op]] = {}
        for op in ops:
            for ref in op.inputs():
                self._users.setdefault(ref.value, []).append(op)
        contractions = [(op, labels.contractions[op.index]) for op in ops if op.index in labels.contractions]
        origins = [self._origin(bias.value) for op, c in contractions if (bias := _bias(op, c)) is not None]
        self._biases = Counter(origin[0] for origin in origins if origin is not None)
        self._called = Counter(path for op, c in contractions for path in self._layers(op, c))

    def _layers(self, op: Op, contraction: Contraction) -> set[str]:
        """Return the modules whose new bias the op would add: its own, and the one that holds the weight."""
        origin = self._origin(contraction.weight)
        return {op.source.module} | (set() if origin is None else {layer_of(origin[0])})

    def calls(self, fold: Fold) -> int:
        """Count how often a tensor is a bias, or read if it is none; of a new bias, how often its layer is called."""
        if fold.new:
            return self._called[layer_of(fold.name)]
        return self._biases[fold.name] or self._reads(fold.name)

    def lasts(self, fold: Fold) -> bool:
        """Whether a checkpoint would hold the tensor that takes a constant."""
        return fold.new or fold.name in self._saved

    def meets(self, fold: Fold) -> bool:
        """Whether the run reads the tensor that takes a constant, or calls the module that gets a bias."""
        return fold.constant.op.source.module in self._ran if fold.new else self._reads(fold.name) > 0

    def find(self, constant: Constant) -> Fold | None:
        """Return the place of a constant, if it has one."""
        bias = _bias(constant.op, constant.contraction)
        if bias is None:
            return self._behind(constant) or self._new_bias(constant)
        origin = self._origin(bias.value)
        if origin is None:
            return None
        name, between = origin
        factor = _factor(self._tensors[name], constant.bias)
        if factor is None and self._reads(name) == self._biases[name]:
            return Fold(name, 1, constant, between=between)
        return Fold(name, 1, constant, carried=True, factor=factor or 1.0)

    def _reads(self, name: str) -> int:
        return len(self._users.get(self._state.get(name, -1), []))

    def _origin(self, value: int) -> tuple[str, tuple[int, ...]] | None:
        """Return the tensor that a value is, or is computed from by ops with one argument of its shape, and these ops."""
        between = []
        while value not in self._names:
            op = self._makers.get(value)
            sources = set(op.reads) if op else set()
            wide = [source for source in sources if self._shapes[source] == self._shapes[value]]
            if op is None or len(wide) != 1 or wide[0] == value:
                return None
            between.append(op.index)
            value = wide[0]
        return self._names[value], tuple(between)

    def _behind(self, constant: Constant) -> Fold | None:
        """Look through views for a BatchNorm, or for a bias that is added, behind the op."""
        ref = constant.op.outputs[0]
        between = [constant.op.index]
        while ref is not None:
            following = self._users.get(ref.value, [])
            if len(following) != 1:
                return None
            op = following[0]
            if op.name in BATCH_NORMS:
                mean = op.arguments.get("running_mean")
                name = self._names.get(mean.value) if isinstance(mean, Ref) else None
                return Fold(name, -1, constant, between=tuple(between)) if name is not None else None
            if op.name in {"aten.add", "aten.add_"}:
                for item in op.inputs():
                    if item.value in self._names and self._shapes[item.value] == tuple(constant.delta.shape):
                        return Fold(self._names[item.value], 1, constant, between=tuple(between))
                return None
            if op.name not in {"aten.view", "aten._unsafe_view"}:
                return None
            between.append(op.index)
            ref = op.outputs[0]
        return None

    def _new_bias(self, constant: Constant) -> Fold | None:
        """A convolution or linear layer without bias gets one.

        It is the op's own module, or the one that holds the weight: wrappers such as ai8x's use the weight of a layer
        that they never call. Whether their code looks at the bias is for the trial to find out.
        """
        own = constant.op.source.module
        for path in (own, *(self._layers(constant.op, constant.contraction) - {own})):
            module = self._modules.get(path)
            if isinstance(module, (_ConvNd, nn.Linear)) and module.bias is None:
                return Fold(f"{path}.bias" if path else "bias", 1, constant, new=True)
        return None


def _bias(op: Op, contraction: Contraction) -> Ref | None:
    bias = op.arguments.get(contraction.bias) if contraction.bias else None
    return bias if isinstance(bias, Ref) else None


def _factor(given: Tensor, used: Tensor | None) -> float | None:
    """Return how many times the bias that was given was used; None where it was used as it is."""
    if used is None or torch.equal(given, used):
        return None
    given, used = given.flatten().double(), used.flatten().double()
    factor = float(given @ used / (given @ given).clamp_min(torch.finfo(torch.float64).tiny))
    return factor or 1.0


def folded_tensors(
    folds: Iterable[Fold], recipe: Recipe, tensors: Mapping[str, Tensor], kept: Kept
) -> dict[str, Tensor]:
    """Return every tensor that takes a constant, thinned and with the constant in it.

    Args:
        folds: what goes where.
        recipe: what thins the model.
        tensors: full-size tensors by name; biases that the recipe adds are not among them.
        kept: which output channels stay.
    """
    found: dict[str, Tensor] = {}
    for fold in folds:
        ref = fold.constant.op.outputs[0]
        stay = None if ref is None else kept.along(ref.value, fold.constant.contraction.out_axis)
        change = fold.change
        if stay is not None:
            change = change[torch.from_numpy(stay).to(change.device)]
        if fold.new:
            found[fold.name] = change
            continue
        tensor = cut(tensors[fold.name].detach(), recipe.keep.get(fold.name, {}))
        found[fold.name] = (tensor.double() + change.to(tensor.device).double()).to(tensor.dtype)
    return found
