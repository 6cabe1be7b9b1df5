"""Options of the whole suite, and the profiles of its property tests: the same examples in every run, or nightly others."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch: processes and workers are compared with this one, bit by bit

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from workplace import NET, Workplace, trained_state

settings.register_profile("default", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=5000, deadline=None, database=None)
settings.load_profile(os.environ.get("TORCHTHIN_HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole-zoo",
        action="store_true",
        help="tests/zoo: every model of torchvision and transformers, not only the quick ones (an hour and 16 GB)",
    )


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def pytest_report_header() -> str:
    """Say whether this run is one of a GPU, too."""
    if torch.cuda.is_available():
        return f"devices: CPU and {torch.cuda.get_device_name()}"
    return "devices: torch sees no CUDA; tests over devices run on the CPU only, and those of a GPU alone are skipped"


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device on which results can be had here."""
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "net.py").write_text(NET)
    torch.save({"state_dict": trained_state(tmp_path), "epoch": 7, "arch": "tiny"}, tmp_path / "best.pth")
    return Workplace(tmp_path, capsys)


@pytest.fixture
def foreign_warnings() -> Iterator[None]:
    """Warnings of other people's models are theirs; the suite turns ours into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module="torchthin")
        yield
