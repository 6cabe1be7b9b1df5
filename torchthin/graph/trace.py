"""What is found about a model in one run: made once, passed on to all that follows."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.graph.clone import clone, modules_of, state_tensors
from torchthin.graph.deferred import Deferred
from torchthin.graph.inputs import Inputs, does_not_run
from torchthin.graph.opgraph import OpGraph, SizeUses
from torchthin.graph.parametrized import DerivedWeight, derived_weights, layer_of
from torchthin.graph.precision import AS_GIVEN, SINGLE, Precision, is_narrow
from torchthin.graph.recorder import record
from torchthin.graph.size_uses import carried_over

LARGE = 2**20
"""Parameters of a model that is recorded without arithmetic."""


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the collector from running inside the block.

    Many small objects are made there that are all kept, and a collection walks over every object of torch and of the user's
    program: 0.15 s in the middle of 0.2 s of work. What the block drops without cycles is freed all the same.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(frozen=True)
class Traced:
    """A model, what it was run on, and what that run showed."""

    model: nn.Module
    """Full size; nothing that holds a `Traced` changes it."""
    inputs: Inputs
    """Example inputs on the model's device."""
    graph: OpGraph
    """The record of the run."""
    given: Inputs | None = None
    """What the caller gave, where `inputs` are a better example made of it."""
    derived: Mapping[str, DerivedWeight] = field(default_factory=dict)
    """Weights that layers compute from other parameters, by the name of the original; see `derived_weights`."""

    @cached_property
    def modules(self) -> Mapping[str, nn.Module]:
        """Every module by its path."""
        return dict(modules_of(self.model))

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every parameter and buffer by its name; see `state_tensors`."""
        return dict(state_tensors(self.model))

    @property
    def is_large(self) -> bool:
        """Whether arithmetic is a large part of a run, so that leaving it out pays."""
        return is_large(self.model)

    def with_numbers(self) -> Traced:
        """Return the same with a record that was made with all arithmetic and with plain integers only."""
        return replace(self, graph=_graph(self.model, self.inputs, numbers=True, watch=False))

    def with_training(self) -> Traced | None:
        """Return the same with the training branch recorded too; None where it computes nothing else, or does not run."""
        if self.graph.branched:
            return None
        try:
            branch = _training_branch(self.model, self.inputs, self.graph)
        except Exception:  # whatever the user's code raises: it wants labels
            return None
        return None if branch.ops == self.graph.ops else replace(self, graph=_merged(self.graph, branch))


def trace(model: nn.Module, inputs: Inputs, *, numbers: bool = False, watch: bool = True) -> Traced:
    """Record what `model` computes on `inputs`, on a copy that shares its weights.

    Where the evaluation run leaves parameters or buffers unread, the training branch is recorded too: its auxiliary heads must
    still fit. A training branch that does not run on these inputs (it wants labels) is left out.

    Args:
        model: full-size model, left as it is.
        inputs: example inputs on the model's device.
        numbers: do all arithmetic. Else a large model runs without, unless its code asks for numbers.
        watch: see in the same run what the code does with integers that modules keep (`torchthin/graph/size_uses.py`).

    Raises:
        InputError: the model cannot be copied, or does not run on the inputs.
    """
    graph = _graph(model, inputs, numbers=numbers or not is_large(model), watch=watch)
    return Traced(model, inputs, graph, derived=derived_weights(model))


def is_large(model: nn.Module) -> bool:
    """Whether arithmetic is a large part of a run, so that leaving it out pays."""
    return sum(tensor.numel() for _, tensor in state_tensors(model)) >= LARGE


@collection_paused()
def _graph(model: nn.Module, inputs: Inputs, *, numbers: bool, watch: bool) -> OpGraph:
    """Return the graph of the evaluation run, merged with that of the training branch where it reads other tensors."""
    try:
        recorded = _recorded(model, inputs, numbers, watch=watch)
    except InputError:  # the model cannot be copied
        raise
    except (Exception, SystemExit) as error:  # of the user's code
        raise does_not_run(model, inputs, "the example_inputs", error) from error
    graph = _with_short_examples_named(recorded.with_idle_layers())
    read = graph.state.keys() - graph.idle
    buffers = [name for name, buffer in model.named_buffers() if buffer.dim()]
    if all(name in read for name in (*dict(model.named_parameters()), *buffers)):
        return graph
    try:
        branch = _training_branch(model, inputs, graph)
    except Exception as error:  # whatever the user's code raises
        cause = " ".join(str(error).split())
        note = f"The training branch does not run on the example inputs, so layers that only it uses are not pruned: {cause}"
        return replace(graph, note=f"{graph.note} {note}".strip())
    used = branch.state.keys() - branch.idle
    if used <= read and branch.state.keys() <= graph.state.keys():
        return graph
    return _merged(graph, branch)


def _training_branch(model: nn.Module, inputs: Inputs, graph: OpGraph) -> OpGraph:
    return _recorded(model, inputs, not graph.fake, training=True, like=graph.precision).with_idle_layers()


def _merged(graph: OpGraph, branch: OpGraph) -> OpGraph:
    both = graph.merged(branch)
    drawn = both.random_op
    if drawn is None:
        return both
    note = f"The training branch draws random numbers ({drawn.name} in {drawn.source}): it was tried, not compared."
    return replace(both, note=f"{both.note} {note}".strip())


def _with_short_examples_named(graph: OpGraph) -> OpGraph:
    layers = dict.fromkeys(layer_of(item.weight) for item in graph.single_steps)
    if not layers:
        return graph
    note = (
        f"The example has one step for {', '.join(layers)}: what recurrent layers compute from their own states was not "
        "compared. Give an example of several steps."
    )
    return replace(graph, note=f"{graph.note} {note}".strip())


def _recorded(
    model: nn.Module,
    inputs: Inputs,
    numbers: bool,
    *,
    training: bool = False,
    watch: bool = False,
    like: Precision = SINGLE,
) -> OpGraph:
    """Record in the cheapest way that the model's code allows: it may need numbers, plain integers, or its own types."""
    ways = dict.fromkeys(((like, not numbers, watch), (like, False, watch), (like, False, False)))
    for precision, fake, watched in ways:
        with contextlib.suppress(Exception):
            return _record(model, inputs, precision, fake=fake, training=training, watch=watched)
    return _record(model, inputs, AS_GIVEN, fake=False, training=training, watch=False)


def _record(
    model: nn.Module, inputs: Inputs, precision: Precision, *, fake: bool, training: bool = False, watch: bool
) -> OpGraph:
    """Record a copy that shares the model's weights, or has them widened as ops read them."""
    deferred = Deferred()
    copy = clone(model, partial(precision.shared, deferred=deferred))
    graph = record(
        copy,
        inputs,
        training=training,
        fake=fake,
        disposable=True,
        watch=watch,
        precision=precision,
        placeholders=deferred,
    )
    return replace(graph, narrow=is_narrow(model))


def read_sizes(traced: Traced) -> SizeUses | None:
    """Return what the model does with the integers that its modules keep.

    Args:
        traced: the model, left as it is, and its record. Where the record does not tell, the model runs again; a run of
            other ops, or one that fails, says nothing about the model: None.
    """
    graph = traced.graph
    if graph.size_uses is not None and graph.size_uses.complete:
        return graph.size_uses
    try:
        again = _record(traced.model, traced.inputs, graph.precision, fake=False, watch=True)
    except Exception:  # code that insists on plain integers; whatever it raises, it is not seen at work
        return None
    if again.size_uses is None or again.call_sites[0] != graph.call_sites[0]:
        return None
    return replace(again.size_uses, uses=tuple(carried_over(again, graph)))
