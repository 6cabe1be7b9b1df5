"""Pipes, sockets and devices are neither read nor replaced; files that say much in few bytes are refused."""

import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from workplace import Workplace

from torchthin.cli.main import main
from torchthin.errors import ConfigError
from torchthin.io.atomic import write_whole
from torchthin.io.checkpoints import read_checkpoint
from torchthin.io.json_lines import Lines

GOOD = ("--model-factory", "net.py:net", "--checkpoint", "best.pth")
SHAPE = ("--input-shape", "1,3,8,8")
PRUNE = ("prune", *GOOD, *SHAPE)


def refused(place: Workplace, message: str, *arguments: str) -> str:
    return place.assert_refused(message, *arguments, run=lambda *given: place.run(*given, main=main))


OUTPUTS = {
    "checkpoint": (*PRUNE, "--save-to", "pipe"),
    "checkpoint in a socket": (*PRUNE, "--save-to", "socket"),
    "checkpoint in a device": (*PRUNE, "--save-to", "/dev/null"),
    "checkpoint by a link": (*PRUNE, "--save-to", "link"),
    "state": (*PRUNE, "--agp-steps", "2", "--train", "net.py:net", "--save-to", "run"),
    "recovery": (*PRUNE, "--thin", "--data", "noise", "--recover-epochs", "1", "--save-to", "run"),
    "page": (*PRUNE, "--report", "pipe.html"),
    "exported program": ("export", "net.py:net", *SHAPE, "--to", "pipe.pt2"),
    "table": ("sensitivity", *GOOD, *SHAPE, "--save-to", "pipe"),
    "rows": ("compare", *GOOD, *SHAPE, "--rows", "pipe"),
}


@pytest.fixture
def special(place: Workplace) -> Workplace:
    endings = ("", ".html", ".pt2", ".pth", ".py", ".npy", ".json")
    for name in (*(f"pipe{ending}" for ending in endings), "run.state", "run.recovery"):
        os.mkfifo(place.path / name)
    (place.path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    return place


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(special: Workplace, case: str) -> None:
    refused(special, "it is a pipe, a socket or a device, not a file", *OUTPUTS[case])
    assert (special.path / "pipe").is_fifo() and not Path("/dev/null").is_file()


INPUTS = {
    "checkpoint": ("prune", "--model-factory", "net.py:net", "--checkpoint", "pipe.pth"),
    "endless checkpoint": ("prune", "--model-factory", "net.py:net", "--checkpoint", "/dev/zero"),
    "configuration": ("prune", "--config", "pipe"),
    "schedule": (*PRUNE, "--distiller-schedule", "pipe"),
    "factory": ("prune", "--model-factory", "pipe.py:net"),
    "array": (*PRUNE, "--thin", "--data", "pipe.npy"),
    "tensors": (*PRUNE, "--thin", "--data", "pipe.pth"),
    "allocation": (*PRUNE, "--target-macs", "0.5x", "--allocation", "pipe"),
    "report": ("report", "pipe.json"),
    "description": (*PRUNE, "--synthesis-to", "folder", "--synthesis-yaml", "pipe"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs(special: Workplace, case: str) -> None:
    refused(special, "it is a pipe, a socket or a device, not a file", *INPUTS[case])


def test_what_is_written_last_is_looked_at_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        write_whole(tmp_path / "pipe", lambda file: file.write_text("x"))
    assert [item.name for item in tmp_path.iterdir()] == ["pipe"]


def laughs(bottom: Any = "x") -> Any:
    for _ in range(40):
        bottom = [bottom, bottom]
    return bottom


def with_extras(path: Path, extras: dict[str, Any]) -> None:
    state = torch.load(path / "best.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": state, "extras": extras}, path / "shared.pth")


def test_lists_that_share_lists_are_written_as_they_were_read(place: Workplace) -> None:
    with_extras(place.path, {"a": laughs()})
    outcome = place.run("--model-factory", "net.py:net", "--checkpoint", "shared.pth", "--save-to", "p.pth")
    assert (outcome.code, outcome.err) == (0, "")
    deepest = read_checkpoint(place.path / "p.pth").extras["a"]
    for _ in range(40):
        assert deepest[0] is deepest[1]
        deepest = deepest[0]
    assert deepest == "x"


@pytest.mark.parametrize("extras", [{"a": laughs()}, {"a": torch.zeros(1).expand(10**10)}])
def test_what_json_would_spell_out_is_refused(place: Workplace, extras: dict[str, Any]) -> None:
    with_extras(place.path, extras)
    message = "it spells out more than 10,000,000 letters and numbers"
    files = ("--model-factory", "net.py:net", "--checkpoint", "shared.pth", "--save-to", "p.safetensors")
    place.assert_refused(message, *files)


def bomb(path: Path) -> None:
    """A megabyte for every kilobyte of the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(2**26))


def nested(path: Path) -> None:
    text = pickle.dumps("extras of the file", protocol=2)[2:-1]
    torch.save({"state_dict": {"w": torch.ones(1)}, "extras": "extras of the file"}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record.replace(text[:-2], b"]" * 20_000 + b"a" * 19_999))


@pytest.mark.parametrize(
    ("make", "message"), [(bomb, "bytes that unpack to 67,1"), (nested, "it is nested too deep")]
)
def test_checkpoints_that_unfold(place: Workplace, make: Callable[[Path], None], message: str) -> None:
    make(place.path / "bad.pth")
    place.assert_refused(message, *GOOD, "--checkpoint", "bad.pth", "--save-to", "p.pth")


def test_a_compressed_archive_of_weights_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(50_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    assert torch.equal(read_checkpoint(tmp_path / "small.pth").state_dict["w"], torch.arange(50_000))


def test_few_inputs_of_an_expanded_tensor_are_taken(place: Workplace) -> None:
    torch.save(torch.ones(1, 3, 8, 8).expand(10**12, 3, 8, 8), place.path / "many.pt")
    few = ("--thin", "--data", "many.pt", "--data-limit", "4", "--quiet")
    assert place.run(*GOOD[:2], *SHAPE, *few).code == 0


TEXTS = {
    "nested": ("keep: " + "[" * 20_000, "it is nested too deep"),
    "shared": (
        "".join(f"a{i}: &a{i} [{f'*a{i - 1}, *a{i - 1}' if i else 'x'}]\n" for i in range(40)),
        "it spells out more than 10,000,000 letters and numbers",
    ),
    "holds itself": ("keep: &a [*a]", "holds itself"),
    "key twice": ("target-sparsity: 0.5\ntarget-sparsity: 0.9", "the key 'target-sparsity' is there twice"),
    "steps": ("agp-steps: 100000000", "must be a whole number of at most 100,000"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_configuration_files(place: Workplace, case: str) -> None:
    text, message = TEXTS[case]
    (place.path / "prune.yaml").write_text(text)
    place.assert_refused(message, *GOOD, "--method", "agp-structured", "--config", "prune.yaml")


def test_a_merged_key_is_not_given_twice(place: Workplace) -> None:
    text = "factory-args: {<<: &wide {width: 4}, width: 8}"
    (place.path / "prune.yaml").write_text(text)
    assert place.run(*GOOD[:2], "--config", "prune.yaml", "--quiet").code == 0


def test_nested_and_repeated_json(place: Workplace) -> None:
    deep = '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}"
    place.assert_refused("it is nested too deep", *GOOD, "--factory-args", deep)
    place.assert_refused("the key 'a' is there twice", *GOOD, "--factory-args", '{"a": 1, "a": 2}')
    (place.path / "deep.json").write_text(deep)
    refused(place, "it is nested too deep", "report", "deep.json")
    (place.path / "rows.jsonl").write_text(json.dumps({"mark": "x"}) + "\n" + deep + "\n")
    with pytest.raises(ConfigError, match=r"does not hold results of torchthin compare \(line 2\)"):
        Lines("rows.jsonl", "x", lambda number, facts: None, role="file", command="compare")


def test_an_error_is_no_longer_than_a_page(place: Workplace) -> None:
    (place.path / "prune.yaml").write_text(f"save-to: [{'x' * 100_000}]")
    line = place.assert_refused("The option save_to (FILE) must be text", *GOOD, "--config", "prune.yaml")
    assert len(line) < 5100


@pytest.mark.parametrize("given", [("--data-limit", "0"), ("--data-std", "-1"), ("--agp-steps", "100000000")])
def test_numbers_are_checked_where_they_are_not_used(place: Workplace, given: tuple[str, str]) -> None:
    place.assert_refused("must be", *PRUNE[1:], *given)
