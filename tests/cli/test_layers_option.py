"""``--ratio layers=...``: a folder of transformers in, one with fewer layers out."""

from pathlib import Path

import pytest
import torch
from tiny_pretrained import T

from torchthin.cli.main import main

pytestmark = pytest.mark.usefixtures("foreign_warnings")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = T.GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, n_positions=32, eos_token_id=1)
    T.GPT2LMHeadModel(config).save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


def test_a_folder_with_fewer_layers(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = torch.randint(0, 64, (40, 16))
    torch.save({"input_ids": ids}, tmp_path / "tokens.pt")
    asked = (
        "--ratio",
        "layers=0.25",
        "--data",
        str(tmp_path / "tokens.pt"),
        "--save-to",
        str(tmp_path / "thin"),
    )
    assert main(["prune", f"hf:{source}", *asked]) == 0
    out = capsys.readouterr().out
    assert (
        "Layers: 1 of 4 left out" in out and "on 40 calibration inputs" in out and "layers before gaps" in out
    )
    small = T.AutoModelForCausalLM.from_pretrained(str(tmp_path / "thin"))
    assert small.config.n_layer == len(small.transformer.h) == 3
    assert "transformer.h." in (tmp_path / "thin" / "README.md").read_text()


def test_too_many_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune", f"hf:{source}", "--ratio", "layers=3", "--save-to", str(tmp_path / "thin")]) == 2
    assert "3 of the 4 layers of transformer.h, and 2 can go" in capsys.readouterr().err
    assert not (tmp_path / "thin").exists()


NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.narrow(self.wide(x).relu())

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Sequential(*(Block() for _ in range(4))), nn.Linear(8, 3)).eval()
"""


@pytest.mark.parametrize("ratio", [["layers=2"], ["layers=1", "mlp=0.5"]])
def test_verify_passes_by_the_layers_of_the_dense_model(
    ratio: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    model = ("--input-shape", "2,6")
    asked = ("--thin", "--ratio", *ratio, "--save-to", "thin.pth")
    assert main(["prune", "--model-factory", "net.py:make", *model, *asked]) == 0
    against = ("--against", "net.py:make", "--masked", "--checkpoint", "thin.pth")
    assert main(["verify", "net.py:make", *model, *against]) == 0, capsys.readouterr().err
    assert (
        main(["verify", "net.py:make", *model, "--against", "net.py:make", "--checkpoint", "thin.pth"]) == 3
    )
