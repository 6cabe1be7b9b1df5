"""Writing: what is in the file, that it is whole or not there, and that it reads back."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from torchthin.errors import CheckpointError
from torchthin.io.atomic import check_destination
from torchthin.io.checkpoints import read_checkpoint, write_checkpoint


def contents(**changes: Any) -> dict[str, Any]:
    weight = torch.randn(4, 3, 3, 3)
    mask = torch.tensor([True, False, True, False]).view(4, 1, 1, 1).expand(4, 3, 3, 3)
    fields: dict[str, Any] = {
        "state_dict": {
            "conv.weight": weight * mask,
            "conv.bias": torch.ones(4, dtype=torch.bfloat16),
            "bn.num_batches_tracked": torch.tensor(5),
        },
        "masks": {"conv.weight": mask},
        "target_sparsity": 0.5,
        "method": "l1-structured",
        "source": "best.pth",
        "epoch": 12,
        "arch": "net",
        "extras": {"best_top1": 91.5},
        "torchthin": {
            "version": "0.1.0",
            "config": {"keep": ["heat_out"]},
            "report": {"layers": [{"name": "conv.weight"}]},
        },
    }
    return {**fields, **changes}


@pytest.mark.parametrize("name", ["p.pth", "p.safetensors"])
def test_written_files_read_back(tmp_path: Path, name: str) -> None:
    given = contents()
    write_checkpoint(tmp_path / name, given)
    read = read_checkpoint(tmp_path / name)
    assert read.state_dict.keys() == given["state_dict"].keys()
    for key, value in given["state_dict"].items():
        assert torch.equal(read.state_dict[key], value)
        assert read.state_dict[key].dtype == value.dtype
    assert read.masks.keys() == given["masks"].keys()
    assert read.masks["conv.weight"].dtype == torch.bool
    assert torch.equal(read.masks["conv.weight"], given["masks"]["conv.weight"])
    assert (read.epoch, read.arch, read.extras, read.torchthin) == (
        12,
        "net",
        given["extras"],
        given["torchthin"],
    )


def test_torch_file_has_the_promised_entries_and_loads_with_weights_only(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "p.pth", contents())
    loaded = torch.load(tmp_path / "p.pth", weights_only=True)
    assert list(loaded) == [
        "state_dict", "masks", "target_sparsity", "method", "source", "epoch", "arch", "extras", "torchthin", "mask_shapes",
    ]  # fmt: skip
    assert (loaded["target_sparsity"], loaded["method"], loaded["source"]) == (
        0.5,
        "l1-structured",
        "best.pth",
    )


def test_safetensors_file_has_masks_beside_weights_and_json_metadata(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "p.safetensors", contents())
    with safe_open(tmp_path / "p.safetensors", framework="pt") as file:
        assert "torchthin.masks.conv.weight" in file.keys()  # noqa: SIM118
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
    assert metadata["target_sparsity"] == 0.5
    assert metadata["torchthin"]["config"] == {"keep": ["heat_out"]}


@pytest.mark.parametrize("name", ["p.pth", "p.safetensors"])
def test_tied_weights_and_views_are_written_whole(tmp_path: Path, name: str) -> None:
    big = torch.randn(1000, 100)
    state = {"a": big[:2], "b": big[:2], "tied": big[5], "t": big[:2].t()}
    write_checkpoint(tmp_path / name, contents(state_dict=state, masks={}))
    assert (tmp_path / name).stat().st_size < 20_000  # the 400 kB behind the views are not written
    read = read_checkpoint(tmp_path / name).state_dict
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_tied_weights_stay_tied_in_a_torch_file(tmp_path: Path) -> None:
    weight = torch.randn(3, 3)
    write_checkpoint(tmp_path / "p.pth", contents(state_dict={"a": weight, "b": weight}, masks={}))
    read = read_checkpoint(tmp_path / "p.pth").state_dict
    assert read["a"].data_ptr() == read["b"].data_ptr()


def test_odd_extras_become_plain_or_are_refused(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    extras = {"top1": np.float64(0.5), "shape": (1, 2), "path": Path("a/b"), "tensor": torch.ones(2)}
    write_checkpoint(tmp_path / "p.pth", contents(extras=extras))
    read = read_checkpoint(tmp_path / "p.pth").extras
    assert (read["top1"], read["shape"], read["path"]) == (0.5, [1, 2], str(Path("a/b")))
    write_checkpoint(tmp_path / "p.safetensors", contents(extras=extras))
    assert read_checkpoint(tmp_path / "p.safetensors").extras["tensor"] == [1.0, 1.0]
    with pytest.raises(CheckpointError, match=r"plain types and tensors\. Got object"):
        write_checkpoint(tmp_path / "q.pth", contents(extras={"x": object()}))
    assert not (tmp_path / "q.pth").exists()


def test_extra_state_is_kept_in_torch_files_and_refused_for_safetensors(tmp_path: Path) -> None:
    state = {"w": torch.ones(1), "q._extra_state": {"scale": 3}}
    write_checkpoint(tmp_path / "p.pth", contents(state_dict=state, masks={}))
    assert read_checkpoint(tmp_path / "p.pth").state_dict["q._extra_state"] == {"scale": 3}
    with pytest.raises(CheckpointError, match=r"q\._extra_state is none; save to a \.pth"):
        write_checkpoint(tmp_path / "p.safetensors", contents(state_dict=state, masks={}))


def test_missing_folders_are_made_and_links_followed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a" / "b" / "p.pth", contents())
    link = tmp_path / "link.pth"
    link.symlink_to(tmp_path / "a" / "b" / "p.pth")
    write_checkpoint(link, contents(method="agp-unstructured"))
    assert link.is_symlink()
    assert torch.load(tmp_path / "a" / "b" / "p.pth", weights_only=True)["method"] == "agp-unstructured"


@pytest.mark.parametrize("name", ["p.pth", "p.safetensors"])
def test_permissions_are_the_users(tmp_path: Path, name: str) -> None:
    (tmp_path / "reference").touch()
    write_checkpoint(tmp_path / name, contents())
    assert (tmp_path / name).stat().st_mode == (tmp_path / "reference").stat().st_mode
    (tmp_path / name).chmod(0o640)
    write_checkpoint(tmp_path / name, contents())
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["p.pth", "p.safetensors"])
@pytest.mark.parametrize("failing", ["write", "fsync", "rename", "interrupt"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failing: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old and whole")

    def fail(*args: object, **kwargs: object) -> None:
        if failing == "interrupt":
            raise KeyboardInterrupt
        raise OSError(28, "No space left on device")

    def half(contents: object, target: Any, *rest: object) -> None:
        (target if isinstance(target, Path) else Path(target.name)).write_bytes(b"half")
        fail()

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    elif failing == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(torch, "save", half)
        monkeypatch.setattr(safetensors.torch, "save_file", half)
    expected = KeyboardInterrupt if failing == "interrupt" else CheckpointError
    with pytest.raises(expected) as raised:
        write_checkpoint(path, contents())
    if failing != "interrupt":
        assert "No space left on device" in str(raised.value)
    assert [item.name for item in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == b"old and whole"


def test_a_destination_is_checked_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_destination(tmp_path / "new" / "folder" / "p.pth")
    monkeypatch.chdir(tmp_path)
    check_destination("p.pth")
    with pytest.raises(CheckpointError, match="must not be a directory"):
        check_destination(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file: Not a directory\. Choose another place"):
        check_destination(tmp_path / "file" / "p.pth")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
