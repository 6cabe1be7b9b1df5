"""How good models are in floating point, in quantisation-aware mode, and in the chip's whole numbers: facts and text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchthin.errors import InputError
from torchthin.evaluation.distance import DenseOutputs, floating
from torchthin.evaluation.evaluator import DISTANCE, Evaluator, Metric, metric_name
from torchthin.graph.evaluation_mode import evaluation_mode
from torchthin.graph.inputs import call
from torchthin.io.calibration import Calibration
from torchthin.max7800x.ai8x.float_form import float_form, is_quantised
from torchthin.max7800x.chips import chip_named
from torchthin.max7800x.cost.layer import WeightBits
from torchthin.max7800x.synthesis.integer_model import integer_model
from torchthin.report.tables import table

SAME_LARGEST = "same largest output"
"""Name of the share of inputs for which the largest of the outputs is that of the first model in floating point."""


@dataclass(frozen=True)
class Precisions:
    """One measure of one model, in each way of computing it; None: there is none."""

    model: str
    measure: str
    """The metric's name, `DISTANCE` or `SAME_LARGEST`."""
    floating: float
    quantised: float | None
    """In quantisation-aware mode, for models that are in it."""
    integer: float | None
    """As the chip computes it; None: the model does not run there."""


@dataclass(frozen=True)
class ChipAccuracy:
    """What models are worth on a chip: a section of the pruning report."""

    chip: str
    samples: int | None
    """Inputs whose outputs were compared; None for a metric."""
    rows: tuple[Precisions, ...]
    notes: tuple[str, ...] = ()
    """Why a model has no whole numbers, and what the chip cannot take of the data."""

    @property
    def key(self) -> str:
        """Its key in the JSON of a pruning report."""
        return "chip_accuracy"

    @property
    def choice(self) -> str:
        """It says nothing of how channels were chosen."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return all facts as JSON types."""
        rows = [asdict(row) for row in self.rows]
        return {"chip": self.chip, "samples": self.samples, "rows": rows, "notes": list(self.notes)}

    def __str__(self) -> str:
        """Return a line that says what was measured, and the table."""
        what = (
            "the metric, higher is better"
            if self.samples is None
            else f"outputs on {self.samples} inputs, from those of the first model in floating point"
        )
        rows = [
            (row.model, row.measure, *map(_number, (row.floating, row.quantised, row.integer)))
            for row in self.rows
        ]
        headings = ("model", "measure", "float", "quantisation-aware", "8-bit integers")
        lines = [f"Accuracy on {self.chip} ({what}):", *table(headings, rows, left=(0, 1))]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def chip_accuracy(
    models: Mapping[str, nn.Module],
    example_inputs: Any,
    chip: str = "MAX78000",
    *,
    data: Calibration | None = None,
    metric: Metric | None = None,
    weight_bits: WeightBits = 8,
) -> ChipAccuracy:
    """Measure every model in floating point, in quantisation-aware mode where it is in it, and in whole numbers.

    Args:
        models: name -> model; outputs are compared with those of the first one in floating point.
        example_inputs: one example (N, C, H, W) or (N, C, L).
        chip: MAX78000 or MAX78002.
        data: inputs on which outputs are compared, where there is no metric.
        metric: function(model) -> number, higher is better.
        weight_bits: of layers that do not say it themselves.

    Raises:
        InputError: neither data nor metric were given, or a model does not run on the data, or the metric fails.
    """
    name, notes = chip_named(chip).name, list[str]()
    forms: dict[str, _Forms] = {}
    for label, model in models.items():
        quantised = model if is_quantised(model) else None
        integer: nn.Module | None = None
        try:
            integer = integer_model(model, example_inputs, name, weight_bits)
        except InputError as error:
            notes.append(f"{label} has no integers: {error}")
        forms[label] = _Forms(model if quantised is None else float_form(model), quantised, integer)
    first = next(iter(forms.values())).floating
    if metric is not None:
        evaluator = Evaluator(first, (), metric)
        rows = [one.row(label, metric_name(metric), evaluator.value) for label, one in forms.items()]
        return ChipAccuracy(name, None, tuple(rows), tuple(notes))
    if data is None:
        raise InputError("The accuracy on a chip needs data or a metric. Give one of them.")
    compare, largest = (
        _Comparison(first, data),
        max(float(next(one.tensors()).abs().max()) for one in data.batches),
    )
    if largest > 1:
        notes.append(
            f"The inputs reach {largest:.3g}; the chip takes -1 to 127/128, and integers are of inputs cut off there. Scale the "
            "data as the network was trained."
        )
    measured = {label: one.measured(compare) for label, one in forms.items()}
    rows = [row for label, values in measured.items() for row in _rows(label, values)]
    return ChipAccuracy(name, data.samples, tuple(rows), tuple(notes))


_Measured = tuple[float, float | None]
"""Distance, and share of inputs with the same largest output."""


@dataclass(frozen=True)
class _Forms:
    """One model, in each way of computing it."""

    floating: nn.Module
    quantised: nn.Module | None
    integer: nn.Module | None

    def row(self, label: str, measure: str, value: Callable[[nn.Module], float]) -> Precisions:
        others = (None if one is None else value(one) for one in (self.quantised, self.integer))
        return Precisions(label, measure, value(self.floating), *others)

    def measured(self, compare: Callable[[nn.Module], _Measured]) -> list[_Measured | None]:
        forms = (self.floating, self.quantised, self.integer)
        return [None if one is None else compare(one) for one in forms]


class _Comparison:
    """Compares outputs with those of one model."""

    def __init__(self, reference: nn.Module, data: Calibration) -> None:
        self._data = data
        self._dense = DenseOutputs.of(self._outputs(reference))

    def __call__(self, model: nn.Module) -> _Measured:
        outputs = list(self._outputs(model))
        return self._dense.distance(outputs), _same_largest(self._dense.batches, outputs)

    def _outputs(self, model: nn.Module) -> Iterator[list[Tensor]]:
        with evaluation_mode(model):
            for batch in self._data.batches:
                yield [tensor.detach() for tensor in floating(call(model, batch))]


def _same_largest(dense: tuple[list[Tensor], ...], other: list[list[Tensor]]) -> float | None:
    """Return it for models with one output of scores (inputs, classes); None for others."""
    if any(len(one) != 1 or one[0].dim() != 2 or one[0].shape[1] < 2 for one in dense):
        return None
    pairs = zip(dense, other, strict=True)
    same = torch.cat([a[0].argmax(1) == b[0].argmax(1) for a, b in pairs])
    return float(same.float().mean())


def _rows(label: str, values: list[_Measured | None]) -> list[Precisions]:
    distances = [None if value is None else value[0] for value in values]
    same = [None if value is None else value[1] for value in values]
    assert distances[0] is not None
    found = [Precisions(label, DISTANCE, distances[0], *distances[1:])]
    return found if same[0] is None else [*found, Precisions(label, SAME_LARGEST, same[0], *same[1:])]
