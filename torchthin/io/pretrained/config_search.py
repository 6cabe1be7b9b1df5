"""The configuration that describes a model, found by trying: numbers are changed until its class has the model's shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from torchthin.errors import InputError, one_line
from torchthin.io.empty import build_empty
from torchthin.io.pretrained.fields import Field, Values, with_numbers
from torchthin.io.pretrained.layer_entries import by_layer
from torchthin.io.pretrained.proposals import (
    STAGES,
    Pairs,
    Stage,
    changes,
    derived,
    equal,
    in_proportion,
    two_at_once,
)
from torchthin.io.pretrained.quiet import quiet_transformers
from torchthin.io.pretrained.sizes import Misfit, Place, Sizes, common_misfits, misfits, sizes_of

_QUICK = 2
"""The first of the stages, which take few trials, are gone through alone before all are."""
_PATHS = 3
"""So many of the closest configurations are followed at a time."""


@dataclass(frozen=True)
class Trial:
    """A configuration, and how far its class is from what is wanted."""

    config: Mapping[str, Any]
    sizes: Sizes
    saved: list[Misfit]
    kept: list[Misfit]


@dataclass
class ConfigSearch:
    """One search; it does not touch the model."""

    model: Any
    wanted: Sizes
    sets: dict[Field, set[Place]] = field(default_factory=dict)
    """The sizes that a field was seen to set."""
    closest: Trial = field(init=False)
    """The best of all that were tried."""
    _met: dict[str, Trial] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _with_derived: Trial | None = None
    _changed: dict[tuple[int, str], set[Place]] = field(default_factory=dict)
    """Trial and change of one field -> the sizes that it changed, where the class could be built."""

    def found(self) -> Iterator[Trial]:
        """Yield trials of the right shapes, each only when it is asked for; `closest` is the best where there is none.

        Several paths are followed, since shapes alone may not tell: half as many heads, or heads of half the width. Of those
        found together the one whose modules keep most of the model's numbers comes first.

        Raises:
            InputError: the class cannot be built from the model's own configuration.
        """
        start, yielded = self._start(), set[int]()
        self.closest = start
        for stages in (STAGES[:_QUICK], STAGES):
            for base in self._bases(start):
                with quiet_transformers():
                    found = sorted(self._followed(base, stages), key=_score)
                for trial in found:
                    if id(trial) not in yielded:
                        yielded.add(id(trial))
                        yield trial

    def _bases(self, start: Trial) -> Iterator[Trial]:
        """Yield where paths start: the model's own configuration, and the same with derived values set, if there are any."""
        yield start
        if self._with_derived is None:
            with quiet_transformers():
                self._with_derived = self._explicit(start)
        if self._with_derived is not start:
            yield self._with_derived

    def _followed(self, start: Trial, stages: Sequence[Stage]) -> list[Trial]:
        """Return the trials of the right shapes that paths from `start` lead to."""
        open_paths, right = [start], list[Trial]()
        while open_paths:
            right += [trial for trial in open_paths if not trial.saved]
            self.closest = min(self.closest, *open_paths, key=_score)
            better = [item for trial in open_paths if trial.saved for item in self._better(trial, stages)]
            open_paths = sorted({id(item): item for item in better}.values(), key=_score)[:_PATHS]
        return right

    def _explicit(self, start: Trial) -> Trial:
        """Return the same sizes with values set that the class derives where a configuration has none: a width of heads."""
        trial = start
        for values, others in derived(start.config, start.sizes.kept):
            found = next(self._tried(trial, [values]), None)
            if found is None or found.sizes.saved != start.sizes.saved:
                continue
            other = next(self._tried(trial, [others]), None)
            if other is None or other.sizes.saved != start.sizes.saved:  # the class reads it
                trial = found
        return trial

    def refined(self, trial: Trial) -> Trial:
        """Return a trial of the same shapes whose modules keep more of the numbers that those of the model keep."""
        with quiet_transformers():
            while trial.kept:
                proposals = equal(trial.config, changes(trial.kept))
                found = min(self._tried(trial, proposals), key=_score, default=None)
                if found is None or found.saved or _score(found) >= _score(trial):
                    return trial
                trial = found
            return trial

    def _start(self) -> Trial:
        config = self.model.config.to_dict()
        try:
            with quiet_transformers():
                return self._trial(config)
        except Exception as error:  # whatever the class raises
            name = type(self.model).__name__
            raise InputError(
                f"{name} cannot be built from its own configuration: {one_line(error)}. "
                "Save the model with described=False."
            ) from error

    def _better(self, trial: Trial, stages: Sequence[Stage]) -> list[Trial]:
        pairs = changes(trial.saved)
        proposals = [stage(trial.config, pairs) for stage in stages]
        if stages is STAGES:
            proposals += [by_layer(trial.config, trial.saved), two_at_once(self._not_idle(trial, pairs))]
        for proposed in proposals:
            better = [item for item in self._tried(trial, proposed) if _score(item) < _score(trial)]
            if better:
                return better
        return []

    def _not_idle(self, trial: Trial, pairs: Pairs) -> Iterator[Values]:
        """Yield the changes of one field that the class refuses, or that change a size which is not the wanted one."""
        wrong = {item.place for item in trial.saved}
        for values in (*equal(trial.config, pairs), *in_proportion(trial.config, pairs)):
            changed = self._changed.get((id(trial), repr(values)))
            if changed is None or not wrong.isdisjoint(changed):
                yield values

    def _tried(self, base: Trial, proposals: Iterable[Values]) -> Iterator[Trial]:
        before = base.sizes.saved
        for values in proposals:
            config = with_numbers(base.config, values)
            if repr(config) in self._refused:
                continue
            try:
                trial = self._trial(config)
            except Exception:  # a class may refuse numbers in any way
                self._refused.add(repr(config))
                continue
            if len(values) == 1:
                after = trial.sizes.saved
                changed = {place for place, size in before.items() if after.get(place, size) != size}
                self.sets.setdefault(next(iter(values)), set()).update(changed)
                self._changed[id(base), repr(values)] = changed
            yield trial

    def _trial(self, config: Mapping[str, Any]) -> Trial:
        key = repr(config)  # two paths may meet
        if key not in self._met:
            self._met[key] = self._new_trial(config)
        return self._met[key]

    def _new_trial(self, config: Mapping[str, Any]) -> Trial:
        sizes = sizes_of(built(self.model, config_of(self.model, config)))
        return Trial(
            config,
            sizes,
            misfits(sizes.saved, self.wanted.saved),
            common_misfits(sizes.kept, self.wanted.kept),
        )


def config_of(model: Any, config: Mapping[str, Any]) -> Any:
    """Return the configuration object that a loader makes of these entries, with what the model's has beside them."""
    made = type(model.config).from_dict(copy.deepcopy(dict(config)))
    kernel = getattr(model.config, "_attn_implementation", None)
    if kernel is not None:  # no file has it
        made._attn_implementation = kernel
    return made


def built(model: Any, config: Any) -> nn.Module:
    """Return a model of the same class with this configuration: parameters on the meta device."""
    kind: Callable[[Any], nn.Module] = type(model)
    with torch.random.fork_rng(devices=[]):
        return build_empty(partial(kind, config), model.state_dict().values())


def _score(trial: Trial) -> tuple[int, int]:
    """Less is better; shapes count first."""
    return len(trial.saved), len(trial.kept)
