"""Damage for sound files: cut short, bytes changed, values of other types and sizes in their place, code to run."""

import copy
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from safetensors import safe_open

MARKER = "code-ran"
"""Name of a file that appears in the current folder when a damaged file runs code."""


class RunsCode:
    """Pickles as a call of os.system."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {MARKER}",)

    def __deepcopy__(self, memo: object) -> "RunsCode":
        return self  # a copy would be made by the call


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


PLAIN: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.25, 1e308, float("inf"), float("nan"), "",
    "0.5", "../../other", "a\nb", "\x00", "é" * 300, [], {}, [1], [[0]], {"a": 1}, ["0.weight"], nested(60),
)  # fmt: skip
"""What may stand where something else is expected, in every format."""
TENSORS: tuple[Any, ...] = (
    torch.ones(0), torch.tensor(7), torch.tensor(float("nan")), torch.ones(2, 3), torch.arange(4), torch.zeros(1).expand(10**12),
    torch.ones(4, dtype=torch.complex64), torch.ones(4, dtype=torch.bool), torch.ones(3).to_sparse(),
    torch.ones(3, device="meta"), RunsCode(), torch.float16, torch.Size([2]), b"bytes", (1, 2), {3},
)  # fmt: skip
"""What a torch file may hold besides."""

Damage = Callable[[Path, Path, st.DataObject], None]
"""Writes the sound file at the first path, damaged, to the second."""


def with_bytes(source: Path, target: Path, data: st.DataObject) -> None:
    """Change, insert, remove or repeat some bytes, or cut the file short."""
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        length = data.draw(st.sampled_from((1, 2, 4, 8, 40)))
        kind = data.draw(st.sampled_from(("cut", "flip", "full", "zero", "digit", "remove", "repeat", "any")))
        match kind:
            case "cut":
                del content[place:]
            case "flip" if content:
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "full":
                content[place : place + length] = b"\xff" * length
            case "zero":
                content[place : place + length] = b"\x00" * length
            case "digit":
                content[place : place + 1] = b"9" * length
            case "remove":
                del content[place : place + length]
            case "repeat":
                content[place:place] = content[place : place + 10 * length]
            case _:
                content[place : place + length] = data.draw(st.binary(max_size=length))
    target.write_bytes(content)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Return container and key of everything in nested dicts and lists."""
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    found = []
    for key, value in pairs:
        found += [(content, key), *places(value)]
    return found


def swapped(content: Any, data: st.DataObject, odd: tuple[Any, ...]) -> Any:
    """Return the content with some values of it replaced, removed, or under another name."""
    holder = [copy.deepcopy(content)]
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(holder)
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        kind = data.draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename")))
        if kind == "replace" or isinstance(container, list):
            container[key] = copy.deepcopy(data.draw(st.sampled_from(odd)))
        elif kind == "remove":
            del container[key]
        else:
            container[data.draw(st.sampled_from(("", "other", "0.weight", "../up", 3)))] = container.pop(key)
    return holder[0]


def with_json(source: Path, target: Path, data: st.DataObject) -> None:
    content = swapped(json.loads(source.read_text()), data, PLAIN)
    target.write_text(json.dumps(content, skipkeys=True))


def with_json_lines(source: Path, target: Path, data: st.DataObject) -> None:
    lines = swapped([json.loads(line) for line in source.read_text().splitlines()], data, PLAIN)
    listed = lines if isinstance(lines, list) else [lines]
    target.write_text("".join(json.dumps(line, skipkeys=True) + "\n" for line in listed))


def with_yaml(source: Path, target: Path, data: st.DataObject) -> None:
    content = swapped(yaml.safe_load(source.read_text()), data, PLAIN)
    target.write_text(yaml.safe_dump(content, sort_keys=False))


def with_torch(source: Path, target: Path, data: st.DataObject) -> None:
    content = swapped(torch.load(source, weights_only=True), data, PLAIN + TENSORS)
    zipped = data.draw(st.booleans())
    torch.save(content, target, _use_new_zipfile_serialization=zipped)


def with_header(source: Path, target: Path, data: st.DataObject) -> None:
    """Change the header of a safetensors file: types, shapes, offsets, metadata; the length before it is right."""
    content = source.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(swapped(json.loads(content[8 : 8 + length]), data, PLAIN), skipkeys=True).encode()
    target.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def with_metadata(source: Path, target: Path, data: st.DataObject) -> None:
    """Change what this package writes into a safetensors file, as JSON; the file itself is sound."""
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        entries = {key: json.loads(text) for key, text in sorted((file.metadata() or {}).items())}
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    changed = swapped(entries, data, PLAIN)
    kept: Mapping[Any, Any] = changed if isinstance(changed, dict) else {}
    texts = {str(key): json.dumps(value, skipkeys=True) for key, value in kept.items()}
    save_file(tensors, target, texts)


def with_array(source: Path, target: Path, data: st.DataObject) -> None:
    """Claim another shape or type than the numbers have."""
    array = np.load(source)
    shape = data.draw(
        st.sampled_from(((), (0,), (10**12,), (2**40, 2**40), (-1, 3), (2, 3, 36), (216,), (2, 3, 6, 10**9)))
    )
    kind = data.draw(
        st.sampled_from(("<f4", "|O", "<U8", "<M8[s]", "|b1", "<c8", "<i8", "f4,i4", "nonsense"))
    )
    header = io.BytesIO()
    facts = {"descr": kind, "fortran_order": data.draw(st.booleans()), "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    target.write_bytes(header.getvalue() + array.tobytes())
