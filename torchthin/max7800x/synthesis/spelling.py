"""How ai8xize.py reads a layer of a network description: other spellings, and what stands for a key that is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ALIASES: dict[str, tuple[str, ...]] = {
    "op": ("op", "operation", "operator", "convolution"),
    "activate": ("activate", "activation"),
    "groups": ("groups", "conv_groups"),
    "read_gap": ("read_gap", "in_skip"),
}
"""Key -> its spellings."""
UNPLACED = frozenset(
    {
        "streaming", "buffer_shift", "buffer_insert", "next_sequence", "snoop_sequence", "simulated_sequence",
        "bypass", "in_crop", "in_channel_skip", "weight_source", "calcx4", "readahead", "tcalc", "bias_group",
        "bias_quadrant",
    }
)  # fmt: skip
"""Keys that move maps, or take layers out of their order, in ways that `torchthin.max7800x.cost` does not place."""
_OPERATIONS = {"fc": "linear", "mlp": "linear", "none": "passthrough"}
_ELTWISE = {"bitwiseor": "or", "bitwise_or": "or", "bitwisexor": "xor", "bitwise_xor": "xor"}
_COMMUTE = ("add", "xor", "or")
_ALONE = ("add", "sub", "xor", "or")


def meaning(entry: Mapping[str, Any], number: int, flat: bool, names: Mapping[str, int]) -> dict[str, Any]:
    """Return what a layer does, whichever way its description spells it; offsets and processors left out.

    Args:
        entry: of the description.
        number: of the layer.
        flat: it works on sequences, so that only the first of two sizes counts.
        names: of the layers, in small letters, with their numbers.
    """
    op, eltwise = _operation(entry)
    convolves = op.startswith("conv")
    read = sources(entry, number, names)
    pools = "max_pool" in entry or "avg_pool" in entry
    return {
        "op": op,
        "kernel_size": _kernel(entry, op) if convolves else "",
        "pad": entry.get("pad", 1 if convolves else 0),
        "dilation": _pair(entry.get("dilation", 1), flat) if convolves else (1, 1),
        "max_pool": _pair(entry.get("max_pool", 1), flat) if "max_pool" in entry else None,
        "avg_pool": _pair(entry.get("avg_pool", 1), flat) if "avg_pool" in entry else None,
        "pool_stride": _pair(entry.get("pool_stride", 1), flat) if pools else (1, 1),
        "pool_dilation": _pair(entry.get("pool_dilation", 1), flat) if pools else (1, 1),
        "eltwise": eltwise,
        "operands": entry.get("operands", 2) if eltwise else 1,
        "pool_first": bool(entry.get("pool_first", True)),
        "flatten": bool(entry.get("flatten", False)),
        "activate": str(_get(entry, "activate", "none")).lower(),
        "output_width": entry.get("output_width", 8),
        "stride": 2 if op == "convtranspose2d" else _one(entry.get("stride", 1)),
        "sequence": entry.get("sequence", number),
        "in_sequences": tuple(sorted(read, key=str)) if eltwise in _COMMUTE else read,
    }


def _operation(entry: Mapping[str, Any]) -> tuple[str, str | None]:
    op = str(_get(entry, "op", "conv2d")).lower()
    eltwise = entry.get("eltwise")
    eltwise = None if eltwise is None else str(eltwise).lower()
    alone = _ELTWISE.get(op, op)
    if alone in _ALONE:
        return "passthrough", alone
    return _OPERATIONS.get(op, op), eltwise


def _get(entry: Mapping[str, Any], key: str, default: Any) -> Any:
    return next((entry[name] for name in ALIASES[key] if name in entry), default)


def _kernel(entry: Mapping[str, Any], op: str) -> str:
    return str(entry.get("kernel_size", 9 if op == "conv1d" else "3x3")).lower()


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value


def _pair(value: Any, flat: bool) -> tuple[Any, ...]:
    pair = tuple(value) if isinstance(value, list) else (value, value)
    return (pair[0], 1) if flat else pair


def sources(entry: Mapping[str, Any], number: int, names: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the numbers of the layers that are read."""
    given = entry.get("in_sequences", number - 1)
    parts = given if isinstance(given, list) else [given]
    return tuple(names.get(part.lower(), part) if isinstance(part, str) else part for part in parts)


def numbers_of(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the numbers of the layers that have names, by name in small letters; the network's input is -1."""
    found = {str(one["name"]).lower(): number for number, one in enumerate(layers) if "name" in one}
    return {**found, "input": -1}
