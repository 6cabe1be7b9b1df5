"""Whole layers left out: which ones, on trial, and the proof; what else is cut is cut of the shortened model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from torchthin.config import PruneConfig, Ratio
from torchthin.errors import ConfigError, InputError, KindError, ProofError
from torchthin.graph.better_examples import trace_more
from torchthin.graph.clone import clone
from torchthin.graph.inputs import Inputs
from torchthin.graph.kept_integers import kept_values
from torchthin.graph.layers import Layer, find_stacks
from torchthin.graph.trace import Traced
from torchthin.importance.layers import block_influence
from torchthin.io.calibration import Calibration
from torchthin.io.pretrained.shorter import Attributes, attributes_of_shorter
from torchthin.report.sections import RemovedLayers
from torchthin.selection.layer_choice import chosen_layers, layers_that_may_go
from torchthin.selection.weight_names import matches_any
from torchthin.thinning.apply import apply_
from torchthin.thinning.layer_names import name_after
from torchthin.thinning.left_out import proved_left_out, without_layers
from torchthin.thinning.proof.verdict import Proof, joined
from torchthin.thinning.recipe import Recipe


@dataclass(frozen=True)
class Shortened:
    """A model without some of its layers, tried and proved."""

    traced: Traced = field(repr=False)
    """The dense model and its record."""
    model: nn.Module = field(repr=False)
    """Shares its tensors with the dense one."""
    recipe: Recipe
    proof: Proof | None
    facts: RemovedLayers

    @property
    def dense(self) -> nn.Module:
        """The model with all layers."""
        return self.traced.model


def layers_of(config: PruneConfig) -> float | None:
    """Return which share (below 1) or number of the layers of every stack a run asks to leave out; None: none.

    Raises:
        ConfigError: they are to be masked.
    """
    amount = config.target.by_kind.get("layers") if isinstance(config.target, Ratio) else None
    if amount is not None and not config.thin:
        raise ConfigError(
            "Layers can only be removed, not masked. Thin the model as well (thin=True, --thin)."
        )
    return amount


def shortened(model: nn.Module, inputs: Inputs, config: PruneConfig, data: Calibration | None) -> Shortened:
    """Return `model`, which is left as it is, without the layers that `config` asks to leave out.

    A layer without which the model does not run, or computes something else than the dense model whose layer hands on what it is
    given, stays; others go in its place.

    Raises:
        KindError: the model has no such layers, or fewer than are asked for may go.
        ProofError: no choice of layers held.
    """
    amount = layers_of(config) or 0.0
    traced = trace_more(model, inputs)
    stacks = find_stacks(traced)
    if not stacks:
        raise KindError(
            "The model has no layers that can be left out: modules of one class in a list, each adding to one stream of the same "
            "size (see torchthin inspect)."
        )
    paths = [layer.path for stack in stacks for layer in stack.layers]
    influence = block_influence(model, paths, (inputs,) if data is None else data.batches)
    weights = [name for name, _ in model.named_parameters()]
    found = layers_that_may_go(stacks, config.include, config.exclude, weights)
    whole = tuple(stack.name for stack, layers in found if not layers)
    may_go = [item for item in found if item[1]] or found  # where none may go, chosen_layers refuses
    failed: dict[str, str] = {}
    while True:
        left = [(stack, [x for x in layers if x.path not in failed]) for stack, layers in may_go]
        try:
            chosen = chosen_layers(left, amount, influence)
        except KindError as error:
            raise _with_reasons(error, failed) from error
        trial = _tried(model, chosen, inputs, config.proof)
        if not isinstance(trial, str):
            recipe, small, proof = trial
            removed = tuple((layer.path, influence[layer.path]) for layer in chosen)
            facts = RemovedLayers(
                removed,
                len(paths),
                None if data is None else data.samples,
                tuple(failed.items()),
                whole,
            )
            return Shortened(traced, small, recipe, proof, facts)
        alone = {
            layer.path: _tried(model, (layer,), inputs, config.proof) for layer in chosen[len(chosen) == 1 :]
        }
        reasons = {path: why for path, why in alone.items() if isinstance(why, str)}
        if len(chosen) == 1:
            reasons = {chosen[0].path: trial}
        if not reasons:
            raise ProofError(
                f"These layers cannot be left out together ({_names(chosen)}): {trial}. Ask for fewer."
            )
        failed |= reasons


def _names(layers: Iterable[Layer]) -> str:
    return ", ".join(layer.path for layer in layers)


def _with_reasons(error: KindError, failed: Mapping[str, str]) -> KindError:
    """Return the error with the first layer that did not go on trial, and why."""
    path, why = next(iter(failed.items()), ("", ""))
    return KindError(f"{error} Without {path}: {why}.") if path else error


def _tried(
    model: nn.Module, layers: Sequence[Layer], inputs: Inputs, level: str
) -> tuple[Recipe, nn.Module, Proof | None] | str:
    """Return the first recipe without these layers that holds, with the model and the proof; or why none does."""
    recipe, whys = _recipe(model, layers), list[tuple[bool, str]]()
    for attributes in _attributes(model, recipe):
        made, small = replace(recipe, attributes=attributes), clone(model, lambda name, tensor: tensor)
        try:
            apply_(small, made)
            proof = proved_left_out(model, small, layers, inputs, level)
        except (InputError, ProofError) as error:
            whys.append((False, str(error).rstrip(".")))
            continue
        if proof is None or proof.holds:
            return made, small, proof
        whys.append((proof.problem is None, proof.sentence()))
    return max(whys, key=lambda why: why[0])[1]  # what comes of one that runs says more


def _recipe(model: nn.Module, layers: Sequence[Layer]) -> Recipe:
    gone: dict[str, set[int]] = {}
    for layer in layers:
        gone.setdefault(layer.place[0], set()).add(layer.place[1])
    lengths = {path: len(list(model.get_submodule(path).children())) for path in gone}
    kept = {path: tuple(n for n in range(lengths[path]) if n not in gone[path]) for path in gone}
    empty = next((path for path, left in kept.items() if not left), None)
    if empty is not None:
        raise KindError(f"No layer of {empty} would be left. Ask for fewer (--ratio layers=...).")
    return Recipe({}, {}, layers=kept, lengths=lengths)


def _attributes(model: nn.Module, recipe: Recipe) -> Iterator[Attributes]:
    """Yield what modules may have to keep without these layers: by the model's own class, by their order, with a count."""
    of_class = attributes_of_shorter(model, recipe)
    if of_class is not None:
        yield of_class
    values = kept_values(model)
    numbered: Attributes = {}
    counts: list[tuple[str, str, int]] = []
    for path, kept in recipe.layers.items():
        start, length = f"{path}." if path else "", recipe.lengths[path]
        in_layers: dict[tuple[str, str], dict[int, int]] = {}
        for (module, name), value in values.items():
            position, _, inner = module.removeprefix(start).partition(".")
            if module.startswith(start) and position.isdecimal() and type(value) is int:
                in_layers.setdefault((inner, name), {})[int(position)] = value
            elif f"{path}.".startswith(f"{module}." if module else "") and value == length:
                counts.append((module, name, len(kept)))
        for (inner, name), found in in_layers.items():
            if len(found) == length and len({value - n for n, value in found.items()}) == 1:
                for new, old in enumerate(kept):
                    if new != old:
                        place = f"{start}{new}.{inner}".rstrip(".")
                        numbered.setdefault(place, {})[name] = found[0] + new
    yield numbered
    for some in (*([item] for item in counts), *([counts] if counts[1:] else [])):
        changed = {module: dict(own) for module, own in numbered.items()}
        for module, name, count in some:
            changed.setdefault(module, {})[name] = count
        yield changed


def for_the_rest(cut: Shortened, config: PruneConfig, target: Ratio) -> PruneConfig:
    """Return what is asked of the shortened model, whose layers have other numbers.

    Raises:
        ConfigError: names or patterns stand for other weights there.
    """
    names = [name for name, _ in cut.dense.named_parameters()]
    after = {name: name_after(name, cut.recipe.layers) for name in names}

    def check(given: Iterable[str]) -> tuple[str, ...]:
        kept = []
        for pattern in given:
            wanted = {after[name] for name in names if matches_any(name, [pattern])} - {None}
            if wanted != {name for name in after.values() if name and matches_any(name, [pattern])}:
                raise ConfigError(
                    f"The pattern {pattern!r} stands for other weights once layers are gone, since those after them are numbered "
                    "again. Leave the layers out first, then prune the result."
                )
            kept += [pattern] if wanted else []
        return tuple(kept)

    check(key for key in target.by_kind if any(matches_any(name, [key]) for name in names))
    include = None if config.include is None else check(config.include)
    return replace(config, target=target, include=include, exclude=check(config.exclude))


def past_layers(dense: nn.Module, recipe: Recipe, inputs: Inputs) -> nn.Module:
    """Return a copy of the dense model in which layers that a recipe takes out hand on what they are given.

    Raises:
        InputError: one of them is no layer that can be left out.
    """
    gone = {
        f"{path}.{number}".lstrip(".")
        for path, kept in recipe.layers.items()
        for number in range(recipe.lengths[path])
        if number not in kept
    }
    layers = [x for stack in find_stacks(trace_more(dense, inputs)) for x in stack.layers if x.path in gone]
    left = sorted(gone - {layer.path for layer in layers})
    if left:
        raise InputError(
            f"The model has no layer {left[0]} that can be left out, as the recipe says. Build the class it was made for."
        )
    return without_layers(dense, layers)


def with_layers(cut: Shortened, later: Recipe | None) -> Recipe:
    """Return the recipe that leaves layers out and then does what follows."""
    return cut.recipe if later is None else cut.recipe.then(later)


def both(first: Proof | None, second: Proof | None) -> Proof | None:
    """Return the proofs of the two steps as one, with the larger of two tolerances."""
    proofs = [proof for proof in (first, second) if proof is not None]
    if not proofs:
        return None
    wide = max(proofs, key=lambda proof: proof.tolerance)
    inexact = tuple(text for proof in proofs for text in proof.inexact)
    return replace(joined([wide, *(proof for proof in proofs if proof is not wide)]), inexact=inexact)
