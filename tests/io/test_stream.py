"""Weights written one tensor at a time: the library reads what was written, and no two tensors are there at once."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from torchthin.errors import ConfigError
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.checkpoints.stream import INDEX, shards_of, size_in_bytes, write_shards

TENSORS = {
    "odd": torch.tensor([1, 2, 3], dtype=torch.int8),
    "narrow": torch.randn(5, 3).bfloat16(),
    "turned": torch.randn(4, 6).t(),
    "flag": torch.tensor(True),
    "number": torch.tensor(0.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "größe": torch.arange(7),
    "float8": torch.randn(8).to(torch.float8_e4m3fn),
}


def written(folder: Path, largest: int) -> list[str]:
    shards = shards_of(TENSORS, largest)
    write_shards(folder, TENSORS, shards, TENSORS.__getitem__)
    return [shard.file for shard in shards]


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    assert written(tmp_path, 10**9) == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*raw), name
        assert found[name].data_ptr() % tensor.element_size() == 0
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_several_files_have_an_index_and_at_most_the_size_that_is_asked_for(tmp_path: Path) -> None:
    files = written(tmp_path, 60)
    assert files == [f"model-{n + 1:05}-of-{len(files):05}.safetensors" for n in range(len(files))]
    index = json.loads((tmp_path / INDEX).read_text())
    assert set(index["weight_map"].values()) == set(files)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())
    for file in files:
        held = load_file(tmp_path / file)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= 60
        assert all(index["weight_map"][name] == file for name in held)
    assert read_checkpoint(tmp_path).state_dict.keys() == TENSORS.keys()


def test_a_tensor_is_gone_when_the_next_one_is_made(tmp_path: Path) -> None:
    forms = {f"w{n}": torch.empty(100, device="meta") for n in range(9)}
    alive: list[weakref.ref[Tensor]] = []

    def make(name: str) -> Tensor:
        assert not any(ref() is not None for ref in alive)
        tensor = torch.full((100,), float(name[1:]))
        alive.append(weakref.ref(tensor))
        return tensor

    write_shards(tmp_path, forms, shards_of(forms, 1000), make)
    state = read_checkpoint(tmp_path).state_dict
    assert {name: float(tensor[0]) for name, tensor in state.items()} == {f"w{n}": float(n) for n in range(9)}


def test_files_that_are_there_stay_and_one_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    for folder in (whole, other):
        folder.mkdir()
    files = written(whole, 60)
    asked: list[str] = []

    def make(name: str) -> Tensor:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(name)
        return TENSORS[name]

    shards = shards_of(TENSORS, 60)
    with pytest.raises(KeyboardInterrupt):
        write_shards(other, TENSORS, shards, make)
    done = [file for file in files if (other / file).exists()]
    assert 0 < len(done) < len(files)
    more: list[str] = []
    write_shards(other, TENSORS, shards, lambda name: more.append(name) or TENSORS[name])  # type: ignore[func-returns-value]
    assert set(more) == {name for shard in shards if shard.file not in done for name in shard.names}
    for file in (*files, INDEX):
        assert (other / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), (20, 20), ("7", 7), ("20kb", 20_000)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "large", "-5GB", "0", "5 XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"max_shard_size must be a size such as"):
        size_in_bytes(text)
