"""torchthin export: files, figures and exit codes."""

import importlib.util
import json
import sys

import pytest
import torch
from workplace import Outcome, Workplace

import torchthin
from torchthin.cli.main import main

SHAPE = ("--input-shape", "1,3,8,8")
MODEL = ("net.py:net", *SHAPE)
NEWER_TORCH = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) >= (2, 6)
WITH_ONNX = NEWER_TORCH and importlib.util.find_spec("onnxruntime") is not None


def test_a_thinned_checkpoint_becomes_files(place: Workplace) -> None:
    assert (
        place.run("prune", "--model-factory", *MODEL, "--thin", "--save-to", "thin.pth", main=main).code == 0
    )
    files = ["thin.pt2", *(["thin.onnx"] if WITH_ONNX else [])]
    outcome = place.run(
        "export",
        *MODEL,
        "--checkpoint",
        "thin.pth",
        "--to",
        *files,
        "--dynamic-batch",
        "--json",
        main=main,
    )
    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)["files"]
    assert [fact["path"] for fact in facts] == files
    for fact in facts:
        assert fact["proof"]["holds"]
        assert fact["proof"]["tolerance"] == 1e-5
        assert fact["file_bytes"] == (place.path / fact["path"]).stat().st_size
    sys.path.insert(0, str(place.path))
    import net

    images = torch.randn(4, 3, 8, 8)
    thin = torchthin.load(net.net(), "thin.pth").eval()
    program = torch.export.load(place.path / "thin.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(images), thin(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*MODEL,), "A file to write is needed"),
        ((*SHAPE, "--to", "a.pt2"), "A model factory is needed"),
        (("net.py:net", "--to", "a.pt2"), "Example inputs are needed"),
        ((*MODEL, "--to", "a.tflite"), "must end in .pt2 or .onnx"),
        ((*MODEL, "--to", "a.pt2", "b.tflite"), "must end in .pt2 or .onnx. Got 'b.tflite'"),
        (("net.py:raises", *SHAPE, "--to", "b.tflite"), "must end in .pt2 or .onnx"),
        (("net.py:raises", *SHAPE, "--to", "net.py/a.pt2"), "must be in a folder"),
        ((*MODEL, "--to", "a.pt2", "--opset", "x"), "invalid int value"),
        ((*MODEL, "--to", "a.pt2", "--dynamic-bach"), "Did you mean '--dynamic-batch'"),
        ((*MODEL, "--to", "net.py/a.pt2"), "must be in a folder"),
        ((*MODEL, "--to", "a.pt2", "a.pt2"), "The files of --to must differ. Got a.pt2 more than once."),
        ((*MODEL, "--to", "a.pt2", "--opset", "18"), "The --opset is one of ONNX."),
        ((*SHAPE, "net.py:net", "--to", "a.pt2"), "The --input-shape took net.py:net, which is no shape."),
    ],
)
def test_bad_input(place: Workplace, arguments: tuple[str, ...], message: str) -> None:
    def run(*given: str) -> Outcome:
        return place.run("export", *given, main=main)

    place.assert_refused(message, *arguments, run=run)


def test_a_missing_package_is_said_before_anything_is_built_or_written(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seek = importlib.util.find_spec

    def without_onnx(name: str, package: str | None = None) -> object:
        return None if name == "onnxscript" else seek(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_onnx)
    files = ("--to", "a.pt2", "a.onnx")
    for model in ("net.py:net", "net.py:raises"):
        place.assert_refused(
            "ONNX needs the package onnx",
            *("export", model, *SHAPE, *files),
            run=lambda *given: place.run(*given, main=main),
        )


def test_an_opset_that_does_not_exist_is_said_before_anything_is_built_or_written(place: Workplace) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    release = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2]))
    place.assert_refused(
        "ONNX needs torch 2.6" if release < (2, 6) else "must be a whole number from 1 to",
        *("export", "net.py:raises", *SHAPE, "--to", "a.pt2", "b.onnx", "--opset", "99"),
        run=lambda *given: place.run(*given, main=main),
    )
