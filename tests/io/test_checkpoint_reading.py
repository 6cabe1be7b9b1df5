"""Reading checkpoints: every shape they come in, and nothing in them ever runs."""

import argparse
import collections
import contextlib
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from torchthin.errors import CheckpointError
from torchthin.io.checkpoints import Checkpoint, read_checkpoint

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "conv.bias": torch.tensor([1.0, -1.0])}


def saved(tmp_path: Path, content: object, **how: object) -> Path:
    path = tmp_path / "best.pth.tar"
    torch.save(content, path, **how)
    return path


def assert_state(checkpoint: Checkpoint) -> None:
    assert list(checkpoint.state_dict) == list(STATE)
    assert all(torch.equal(checkpoint.state_dict[name], value) for name, value in STATE.items())


class RunsCode:
    """Pickles as a call of os.system that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


class Harmless:
    """A class of the user's own training code."""

    def __init__(self) -> None:
        self.learning_rate = 0.1


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_state_dicts_are_found_and_unwrapped(tmp_path: Path, key: str | None, prefix: str) -> None:
    state = {prefix + name: value for name, value in STATE.items()}
    assert_state(read_checkpoint(saved(tmp_path, state if key is None else {key: state, "epoch": 3})))


def test_a_prefix_that_not_all_names_share_stays(tmp_path: Path) -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert list(read_checkpoint(saved(tmp_path, state)).state_dict) == ["module.a", "b"]


@pytest.mark.parametrize("zipped", [True, False])
def test_both_torch_formats_and_ordered_dicts(tmp_path: Path, zipped: bool) -> None:
    content = {"state_dict": collections.OrderedDict(STATE), "epoch": 12, "arch": "net"}
    checkpoint = read_checkpoint(saved(tmp_path, content, _use_new_zipfile_serialization=zipped))
    assert_state(checkpoint)
    assert (checkpoint.epoch, checkpoint.arch, checkpoint.skipped) == (12, "net", ())


def adi_checkpoint(model: nn.Module) -> dict[str, object]:
    """What ai8x-training's save_checkpoint writes, by its documented keys."""
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "epoch": 29,
        "state_dict": {f"module.{name}": value for name, value in model.state_dict().items()},
        "arch": "ai85posenet",
        "optimizer_state_dict": optimizer.state_dict(),
        "optimizer_type": type(optimizer),
        "compression_sched": {"masks_dict": {"conv.weight": None}},
        "extras": {"best_top1": 91.5, "best_epoch": 28, "args": argparse.Namespace(lr=0.1)},
    }


def test_adi_checkpoint_loads_without_its_classes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    checkpoint = read_checkpoint(saved(tmp_path, adi_checkpoint(model)))
    for name, value in model.state_dict().items():
        assert torch.equal(checkpoint.state_dict[name], value)
        assert checkpoint.state_dict[name].dtype == value.dtype
    assert (checkpoint.epoch, checkpoint.arch) == (29, "ai85posenet")
    assert checkpoint.extras == {"best_top1": 91.5, "best_epoch": 28}
    assert checkpoint.skipped == (
        "extras (argparse.Namespace)",
        f"optimizer_type ({type(torch.optim.Adam([torch.ones(1)])).__module__}.Adam)",
    )


def test_placeholder_reading_keeps_every_kind_of_tensor(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    state = {
        "tied_a": base,
        "tied_b": base,
        "strided": base.reshape(3, 4).t(),
        "offset": base[5:],
        "expanded": torch.ones(4, 1).expand(4, 3),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(7),
        "parameter": nn.Parameter(torch.ones(2)),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        **{
            str(t): torch.ones(3).to(t)
            for t in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool)
        },
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    path = saved(tmp_path, {"state_dict": state, "optimizer_type": torch.optim.SGD})
    with pytest.raises(pickle.UnpicklingError):  # so that what follows is the placeholder reader's work
        torch.load(path, weights_only=True)
    read = read_checkpoint(path).state_dict
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(read[name], value), name
        assert (read[name].dtype, read[name].stride()) == (value.dtype, value.stride()), name
    assert read["tied_a"].data_ptr() == read["tied_b"].data_ptr()


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = RunsCode(marker)
    contents = [
        evil,
        {"state_dict": STATE, "extras": evil},
        {"state_dict": {**STATE, "x": evil}},
        {"model": evil},
    ]
    for content in contents:
        for zipped in (True, False):
            path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
            with pytest.raises(CheckpointError, match=r"refused: it would run code \((posix|nt)\.system\)"):
                read_checkpoint(path)
    plain = tmp_path / "plain.pkl"
    plain.write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match=r"it would run code \((posix|nt)\.system\)"):
        read_checkpoint(plain)
    assert not marker.exists()
    torch.load(saved(tmp_path, evil), weights_only=False)  # the attack itself works
    assert marker.exists()


@pytest.mark.parametrize("called", ["eval", "exec", "__import__", "getattr"])
def test_builtins_that_run_code_are_refused(tmp_path: Path, called: str) -> None:
    class Calls:
        def __reduce__(self) -> tuple[object, ...]:
            return getattr(__builtins__, called, None) or __builtins__[called], ("1 + 1",)  # type: ignore[index]

    with pytest.raises(CheckpointError, match=f"builtin.*{called}"):
        read_checkpoint(saved(tmp_path, {"state_dict": STATE, "extras": Calls()}))


@pytest.mark.parametrize("where", ["top", "model", "state"])
def test_foreign_classes_in_the_weights_are_refused_by_name(tmp_path: Path, where: str) -> None:
    content = {
        "top": Harmless(),
        "model": {"model": Harmless()},
        "state": {"state_dict": {**STATE, "x": Harmless()}},
    }
    with pytest.raises(CheckpointError, match=r"test_checkpoint_reading\.Harmless") as raised:
        read_checkpoint(saved(tmp_path, content[where]))
    assert "state_dict()" in str(raised.value)


def test_whole_pickled_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.conv\.Conv2d"):
        read_checkpoint(saved(tmp_path, nn.Conv2d(1, 1, 1)))


def test_foreign_class_in_the_older_format_is_refused_by_name(tmp_path: Path) -> None:
    content = {"state_dict": STATE, "optimizer_type": Harmless}
    with pytest.raises(CheckpointError, match=r"test_checkpoint_reading\.Harmless"):
        read_checkpoint(saved(tmp_path, content, _use_new_zipfile_serialization=False))


def test_containers_that_hold_themselves_do_not_hang(tmp_path: Path) -> None:
    loop: list[object] = [1]
    loop.append(loop)
    bomb: list[object] = []
    for _ in range(60):
        bomb = [bomb, bomb]
    content = {"state_dict": STATE, "extras": {"loop": loop, "bomb": bomb, "best": 1.5}, "o": torch.optim.SGD}
    checkpoint = read_checkpoint(saved(tmp_path, content))
    assert_state(checkpoint)
    assert checkpoint.extras["best"] == 1.5


@pytest.mark.parametrize("epoch", [None, "12", 1.5, True])
def test_an_epoch_that_is_no_whole_number_counts_as_none(tmp_path: Path, epoch: object) -> None:
    assert read_checkpoint(saved(tmp_path, {"state_dict": STATE, "epoch": epoch})).epoch == 0


def test_safetensors_by_name_and_by_content(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors", {"format": "pt", "epoch": "4", "arch": "net"})
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert_state(Checkpoint(checkpoint.path, {name: checkpoint.state_dict[name] for name in STATE}))
    assert (checkpoint.epoch, checkpoint.arch, checkpoint.masks) == (4, "net", {})
    (tmp_path / "a.safetensors").rename(tmp_path / "b.pth")
    assert_state(
        Checkpoint(checkpoint.path, {n: read_checkpoint(tmp_path / "b.pth").state_dict[n] for n in STATE})
    )


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # the members by which a TorchScript archive is known
        for name in ("net/data.pkl", "net/constants.pkl", "net/code/__torch__.py", "net/version"):
            archive.writestr(name, b"")


def tar_file(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))


def truncated(path: Path, *, zipped: bool) -> None:
    torch.save({"state_dict": {"big": torch.ones(10_000)}}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:30_000])


def truncated_safetensors(path: Path) -> None:
    save_file({"big": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:-100])


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/cat.txt", b"miau")


def torch_file(content: object) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist"),
    "directory": (Path.mkdir, "It is a directory"),
    "empty": (Path.touch, "is empty"),
    "zip cut short": (lambda path: truncated(path, zipped=True), "cut short"),
    "older format cut short": (lambda path: truncated(path, zipped=False), "damaged or no checkpoint"),
    "text": (lambda path: path.write_text("I am a README\n"), "damaged or no checkpoint"),
    "program": (
        lambda path: path.write_text("import torch\nfrom torch import nn\n"),
        "damaged or no checkpoint",
    ),
    "tar": (tar_file, "is a tar archive"),
    "zip of something": (plain_zip, "not one of torch.save"),
    "torchscript": (torchscript, "TorchScript"),
    "a number": (torch_file(3), "object of type int"),
    "no weights": (torch_file({"epoch": 3, "loss": 0.5}), "It holds 'epoch', 'loss'"),
    "empty state": (torch_file({"state_dict": {}}), "is empty"),
    "not names": (torch_file({"state_dict": {0: torch.ones(1)}}), "names as keys"),
    "not tensors": (torch_file({"state_dict": {**STATE, "b": 3}}), r"b \(an object of type int\)"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_say_what_they_are(tmp_path: Path, case: str) -> None:
    make, message = UNREADABLE[case]
    path = tmp_path / "x.pth"
    make(path)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_safetensors_cut_short(tmp_path: Path) -> None:
    truncated_safetensors(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_damaged_in_the_middle(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": STATE, "optimizer_type": torch.optim.SGD})
    data = bytearray(path.read_bytes())
    start = data.index(b"data.pkl") + 80
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_checkpoint(path)


def with_one_bit_flipped(path: Path, record: str) -> Path:
    """Flip a bit in the middle of a record's bytes; the archive around it stays as it was."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(record))
        where, size = archive.getinfo(name).header_offset, archive.getinfo(name).file_size
    data = bytearray(path.read_bytes())
    lengths = struct.unpack("<HH", data[where + 26 : where + 30])  # of the name and of what follows it
    data[where + 30 + sum(lengths) + size // 2] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "optimizer_type": torch.optim.SGD}])
@pytest.mark.parametrize("record", ["data/0", "data/1", "/version"])
def test_one_changed_bit_is_damage_and_the_record_is_named(
    tmp_path: Path, content: object, record: str
) -> None:
    path = with_one_bit_flipped(saved(tmp_path, content), record)
    with pytest.raises(CheckpointError, match=f"{record} do not match their checksum.*again") as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)


def needs(option: str) -> pytest.MarkDecorator:
    """Skip where torch.serialization has no such option and so always writes checksums."""
    return pytest.mark.skipif(not hasattr(torch.serialization, option), reason=f"no {option} in this torch")


@needs("set_crc32_options")
@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE, "optimizer_type": torch.optim.SGD}])
def test_files_written_without_checksums_load(tmp_path: Path, content: object) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path, content)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {record.CRC for record in archive.infolist()} == {0}
    assert_state(read_checkpoint(path))


@needs("skip_data")
def test_storages_filled_in_later_have_no_checksum_and_load(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        path = saved(tmp_path, STATE)
    with zipfile.ZipFile(path) as archive:
        assert {record.CRC for record in archive.infolist() if "/data/" in record.filename} >= {0}
    assert read_checkpoint(path).state_dict["conv.weight"].shape == (2, 3, 2, 2)


def hungry_pickles() -> dict[str, bytes]:
    """Pickles of a few bytes for which Python's own unpickler would reserve a gigabyte."""
    return {
        "memo index": b"\x80\x02cfoo\nBar\nr\x00\x00\x00\x06.",
        "byte array": b"\x80\x05cfoo\nBar\n\x96\x00\x00\x00\x40\x00\x00\x00\x00abc.",
        "text": b"\x80\x04cfoo\nBar\n\x8d\x00\x00\x00\x40\x00\x00\x00\x00abc.",
    }


@pytest.mark.parametrize("case", hungry_pickles())
@pytest.mark.parametrize("zipped", [True, False])
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path, case: str, zipped: bool) -> None:
    path = tmp_path / "x.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", hungry_pickles()[case])
            archive.writestr("x/version", b"3\n")
    else:
        path.write_bytes(hungry_pickles()[case])
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint|foo\.Bar"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000_000


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = {"state_dict": STATE, "optimizer_type": torch.optim.SGD}
    zipped = data.draw(st.booleans())
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    with contextlib.suppress(CheckpointError):
        checkpoint = read_checkpoint(path)
        if zipped:  # the older format has no checksums
            assert_state(checkpoint)
