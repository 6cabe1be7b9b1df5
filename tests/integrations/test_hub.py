"""Folders of huggingface_hub for a class that is not of transformers."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import torchthin
from torchthin.errors import CheckpointError, ConfigError

pytest.importorskip("huggingface_hub")

from torchthin.integrations.hub import HubModel

X = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def make(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 4, 3))


class Thin(HubModel):
    factory = staticmethod(make)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_thinned_model_comes_back_from_its_folder(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = torchthin.prune(make(16).to(dtype).eval(), X.to(dtype), 0.5)
    Thin({"width": 16}, result.model).save_pretrained(tmp_path / "thin")
    again = Thin.from_pretrained(tmp_path / "thin")
    assert json.loads((tmp_path / "thin" / "config.json").read_text()) == {"arguments": {"width": 16}}
    assert again.model[0].out_channels == 8 and again.model[0].weight.dtype == dtype
    assert torch.equal(again(X.to(dtype)), result.model(X.to(dtype)))
    assert "torchthin" in (tmp_path / "thin" / "README.md").read_text()


def test_a_file_names_no_code_and_faults_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HubModel does not; write factory"):
        HubModel({"width": 4}, make(4))
    (tmp_path / "config.json").write_text('{"factory": "os:system"}')
    with pytest.raises(CheckpointError, match=r"must have a config.json with the arguments"):
        Thin.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"arguments": {"width": 4}}')
    with pytest.raises(CheckpointError):
        Thin.from_pretrained(tmp_path)
