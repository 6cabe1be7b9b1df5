"""Bad input: one line saying what and how to correct it, exit code 2, no file touched."""

import contextlib
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from workplace import Outcome, Workplace

from torchthin.cli.console import run_command
from torchthin.cli.prune import main

GOOD = ("--model-factory", "net.py:net", "--checkpoint", "best.pth", "--save-to", "pruned.pth")


class RunsCode:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch ran",)


def change(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        state = torch.load(path / "best.pth", weights_only=True)["state_dict"]
        state[name] = value(state[name].clone())
        torch.save(state, path / "bad.pth")

    return make


def renamed(path: Path) -> None:
    state = torch.load(path / "best.pth", weights_only=True)["state_dict"]
    torch.save({name.replace("conv1", "conv_1"): value for name, value in state.items()}, path / "bad.pth")


def truncated(path: Path) -> None:
    (path / "bad.pth").write_bytes((path / "best.pth").read_bytes()[:3000])


def one_bit_flipped(path: Path) -> None:
    """Change a weight in the file, which torch.load does not notice."""
    weight = torch.load(path / "best.pth", weights_only=True)["state_dict"]["conv2.weight"]
    data = bytearray((path / "best.pth").read_bytes())
    data[data.index(weight.numpy().tobytes()) + 5] ^= 1
    (path / "bad.pth").write_bytes(data)
    assert torch.load(path / "bad.pth", weights_only=True)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "The checkpoint bad.pth does not exist."),
    "directory": (lambda path: (path / "bad.pth").mkdir(), "must be a file. It is a directory"),
    "truncated": (truncated, "is damaged: it is cut short. Save or download it again."),
    "flipped bit": (one_bit_flipped, "do not match their checksum). Save or download it again."),
    "code": (
        lambda path: torch.save(RunsCode(), path / "bad.pth"),
        "is refused: it would run code (posix.system)",
    ),
    "wrong names": (
        renamed,
        "Missing: conv1.weight, conv1.bias. Unexpected: conv_1.weight, conv_1.bias. Did you mean",
    ),
    "wrong shape": (change("fc.bias", lambda t: t[:1]), "fc.bias is (1,), the model has (2,)"),
    "nan": (change("conv2.weight", lambda t: t.log()), "conv2.weight has NaN in"),
    "complex": (
        change("fc.weight", lambda t: t.to(torch.complex64)),
        "fc.weight is torch.complex64, the model has torch.float32.",
    ),
    "infinite": (change("fc.weight", lambda t: t / 0), "fc.weight has infinite values in 8 of 8 entries"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints(place: Workplace, case: str) -> None:
    make, message = CHECKPOINTS[case]
    make(place.path)
    place.assert_refused(message, *GOOD, "--checkpoint", "bad.pth")


FACTORIES = {
    "not importable": ("nowhere_at_all:net", "there is no module nowhere_at_all here"),
    "no file": ("nowhere.py:net", "there is no such file"),
    "no function": ("net.py:nett", "has no 'nett'. Did you mean"),
    "not callable": ("net.py:number", "must be a function. It is of type int"),
    "needs arguments": ("net.py:needs", """Give them as --factory-args '{"num_classes": ...}'"""),
    "raises": ("net.py:raises", "raised RuntimeError: no weights here"),
    "no module": ("net.py:pair", "must return a torch.nn.Module. It returned tuple."),
    "no colon": ("net.py", "must be package.module:function or path/to/file.py:function"),
}


@pytest.mark.parametrize("case", FACTORIES)
def test_factories(place: Workplace, case: str) -> None:
    factory, message = FACTORIES[case]
    place.assert_refused(message, *GOOD, "--model-factory", factory)


OPTIONS = {
    "sparsity above": (
        ["--target-sparsity", "1.2"],
        "The ratio of Ratio (--target-sparsity) must be in [0, 1). Got 1.2.",
    ),
    "sparsity one": (["--target-sparsity", "1"], "must be in [0, 1). Got 1.0."),
    "sparsity below": (["--target-sparsity", "-0.5"], "must be in [0, 1). Got -0.5."),
    "sparsity nan": (["--target-sparsity", "nan"], "must be in [0, 1). Got nan."),
    "sparsity text": (
        ["--target-sparsity", "half"],
        "Argument --target-sparsity: invalid float value: 'half'.",
    ),
    "agp steps": (
        ["--agp-steps", "0"],
        "(--agp-steps) must be a whole number of at least 1. Got 0.",
    ),
    "weight": (["--weights", "conv1.weight", "conv3.weight"], "no weight 'conv3.weight'. Did you mean"),
    "unprunable": (["--weights", "bn.weight"], "The weight bn.weight cannot be pruned"),
    "keep": (["--keep", "head*"], "The exclude pattern (--keep) 'head*' matches no weight"),
    "method": (["--method", "l1-structure"], "Did you mean 'l1-structured'"),
    "compat": (["--compat", "distill"], "The compat (--compat) must be"),
    "scope": (["--scope", "all"], "(--scope) must be 'group' or 'global'. Got 'all'."),
    "device": (["--device", "gpu"], "The device must be cpu, cuda, cuda:<number> or mps. Got 'gpu'."),
    "shape": (["--input-shape", "3x32x32"], "An input shape must be sizes such as 1,3,128,128"),
    "shape zero": (["--input-shape", "1,0,32"], "An input shape must be sizes"),
    "shape without its dtype": (["--input-shape", "1,3,8,8:"], "An input shape must be sizes"),
    "dtype": (["--input-shape", "1,3:float3"], "Did you mean 'float32'"),
    "dataset": (["--dataset", "cifar11"], "Did you mean 'cifar10'"),
    "dataset beside a shape": (
        ["--dataset", "cifar11", "--input-shape", "1,3,8,8"],
        "Did you mean 'cifar10'",
    ),
    "factory args": (["--factory-args", "[1]"], "must be a JSON object"),
    "factory args no json": (["--factory-args", "width=4"], "not JSON"),
    "unknown flag": (["--target-sparcity", "0.5"], "Did you mean '--target-sparsity'"),
    "stray word": (["more"], "The model must be given once. Got more and --model-factory net.py:net."),
    "stray words": (["more", "still"], "Unknown argument 'still'."),
    "save to a directory": (["--save-to", "."], "must not be a directory"),
    "save below a file": (
        ["--save-to", "net.py/pruned.pth"],
        "net.py: Not a directory. Choose another place.",
    ),
    "save over the source": (["--save-to", "./best.pth"], "must not be the checkpoint itself"),
    "save over the model": (["--save-to", "net.py"], "must not be the model's own"),
    "report's JSON over the curves": (
        ["--report", "net.html", "--sensitivity", "net.json"],
        "The file of --report (its JSON) must not be the --sensitivity. Got net.json for both",
    ),
    "name too long": (["--save-to", "x" * 300], "must have a name that the system accepts"),
    "sensitivity without a report": (["--sensitivity", "net.json"], "--sensitivity goes with --report"),
    "text as data": (["--thin", "--input-shape", "1,3,8,8", "--data", "text.npy"], "Got an array of <U1."),
    "data cut short": (
        ["--thin", "--input-shape", "1,3,8,8", "--data", "cut.pt"],
        "cut.pt is damaged: it is cut short",
    ),
    "no config": (
        ["--config", "nowhere.yaml"],
        "The configuration file nowhere.yaml cannot be read: No such file",
    ),
    "thin without an input": (["--thin"], "The option --thin needs example inputs"),
    "thin single weights without an input": (
        ["--thin", "--method", "agp-unstructured"],
        "The option --thin needs example inputs",
    ),
    "thin a pattern without an input": (
        ["--thin", "--method", "nm-unstructured"],
        "The option --thin needs example inputs",
    ),
    "thin Distiller's masks without an input": (
        ["--thin", "--compat", "distiller"],
        "The option --thin needs example inputs",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options(place: Workplace, case: str) -> None:
    arguments, message = OPTIONS[case]
    np.save(place.path / "text.npy", np.array(["a"]))
    (place.path / "cut.pt").write_bytes((place.path / "best.pth").read_bytes()[:3000])
    (place.path / "net.json").write_text("{}")
    place.assert_refused(message, *GOOD, *arguments)


CONFIGS = {
    "unknown key": (
        "target-sparcity: 0.5",
        "has the unknown option 'target_sparcity'. Did you mean 'target_sparsity'",
    ),
    "not a mapping": ("[1, 2]", "must map options to values"),
    "not yaml": ("a: [", "must be YAML"),
    "wrong type": ("save-to: 3", "The option save_to (FILE) must be text. Got 3."),
    "wrong value": ("target-sparsity: much", "(--target-sparsity) must be in [0, 1). Got 'much'."),
    "given twice": ("agp-steps: 1\nagp_steps: 2", "has the option 'agp_steps' twice"),
    "an allocation that is no file": (
        "target-macs: 0.5x\nallocation: 3",
        "The allocation (--allocation) must be 'auto', 'outputs' or a file of torchthin sensitivity. Got 3.",
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configuration_files(place: Workplace, case: str) -> None:
    text, message = CONFIGS[case]
    (place.path / "prune.yaml").write_text(text)
    place.assert_refused(message, "--model-factory", "net.py:net", "--config", "prune.yaml")


def test_no_factory(place: Workplace) -> None:
    place.assert_refused("Give --model-factory", "--checkpoint", "best.pth")


def test_cuda_asked_for_and_absent(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    place.assert_refused("torch sees no CUDA GPU. Use --device cpu.", *GOOD, "--device", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place.assert_refused("must be one of cuda:0 to cuda:1", *GOOD, "--device", "cuda:2")


def test_an_unwritable_folder(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**where: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # a superuser could write to any real folder
    place.assert_refused("Permission denied. Choose another place.", *GOOD)


def test_the_longest_name_there_can_be(place: Workplace) -> None:
    name = "x" * 251 + ".pth"  # the temporary file beside it must not need a longer one
    outcome = place.run(*GOOD, "--save-to", name)
    assert (outcome.code, outcome.err) == (0, "")
    assert (place.path / name).is_file()


def test_a_full_disk_leaves_the_old_file_whole(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.path / "pruned.pth").write_bytes(b"old")

    def half(contents: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    place.assert_refused("pruned.pth could not be written: No space left on device.", *GOOD)


def limited(arguments: list[str]) -> int:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    return main(arguments)


def test_a_write_that_really_fails(place: Workplace) -> None:
    """The system refuses files above 20 kB to the process, as a full disk does half-way through."""
    (place.path / "pruned.pth").write_bytes(b"old")

    def run(*arguments: str) -> Outcome:
        return place.process(*arguments, main=limited)

    wide = ("--model-factory", "net.py:net", "--factory-args", '{"width": 500}', "--save-to", "pruned.pth")
    place.assert_refused("pruned.pth could not be written: File too large.", *wide, run=run)
    np.save(place.path / "data.npy", np.zeros((2, 3, 8, 8), np.float32) + 0.5)
    learns = ("--input-shape", "1,3,8,8", "--thin", "--data", "data.npy", "--recover-epochs", "1")
    place.assert_refused("pruned.pth.recovery could not be written: File too large.", *wide, *learns, run=run)


PROCESSES = {
    "missing": (["--checkpoint", "nowhere.pth"], "does not exist"),
    "code": (["--checkpoint", "bad.pth"], "it would run code"),
    "sparsity": (["--target-sparsity", "1.2"], "must be in [0, 1). Got 1.2."),
    "raises": (["--model-factory", "net.py:raises"], "raised RuntimeError"),
}


@pytest.mark.parametrize("case", PROCESSES)
def test_as_a_user_sees_it(place: Workplace, case: str) -> None:
    arguments, message = PROCESSES[case]
    torch.save(RunsCode(), place.path / "bad.pth")
    place.assert_refused(message, *GOOD, *arguments, run=place.process)


def test_debug_shows_the_traceback(place: Workplace) -> None:
    outcome = place.run(*GOOD, "--model-factory", "net.py:raises", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert 'raise RuntimeError("no weights here")' in outcome.err
    assert outcome.err.splitlines()[-1].startswith(
        "error: The model factory net.py:raises raised RuntimeError"
    )


def test_an_error_of_ours_is_one_line_too(place: Workplace) -> None:
    def wrong(arguments: object) -> int:
        raise ZeroDivisionError("a\nb\x1b[1m")

    outcome = place.run(main=partial(run_command, wrong))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "error: ZeroDivisionError: a b [1m. Run again with --debug for the traceback.\n"


def test_ctrl_c_says_in_one_line_how_to_continue(place: Workplace) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    before = place.files()
    outcome = place.run(*GOOD, main=partial(run_command, interrupt))
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (130, "", 1)
    assert "The same command starts over." in outcome.err
    outcome = place.run(*GOOD, "--recover-epochs", "5", main=partial(run_command, interrupt))
    assert "If an epoch was finished, the same command continues after it." in outcome.err
    assert place.files() == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_that_some_library_swallowed(place: Workplace) -> None:
    """Importing torch does, and leaves numpy half imported: what comes of it is no error inside."""

    def swallow(arguments: object) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RecursionError("numpy")

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        outcome = place.run(main=partial(run_command, swallow))
        assert (outcome.code, outcome.err.count("\n")) == (130, 1)
        assert "interrupted." in outcome.err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
