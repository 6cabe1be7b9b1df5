"""Fixtures of the command-line tests."""

import sys
from pathlib import Path

import pytest
import torch
from workplace import NET, Workplace, trained_state


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Workplace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "net.py").write_text(NET)
    torch.save({"state_dict": trained_state(tmp_path), "epoch": 7, "arch": "tiny"}, tmp_path / "best.pth")
    return Workplace(tmp_path, capsys)
