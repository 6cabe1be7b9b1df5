"""Uneven layers of classes that read ``per_layer_config`` are described by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pretrained import T
from torch import Tensor, nn

import torchthin
from torchthin.integrations.transformers import save_pretrained

pytestmark = [
    pytest.mark.usefixtures("foreign_warnings"),
    pytest.mark.skipif(
        not hasattr(T.PreTrainedConfig, "per_layer_config"), reason="a transformers without per_layer_config"
    ),
]


class StackConfig(T.PreTrainedConfig):
    model_type = "stack-of-a-test"

    def __init__(
        self, hidden_size: int = 8, intermediate_size: int = 12, num_hidden_layers: int = 3, **more: Any
    ):
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.num_hidden_layers = num_hidden_layers
        super().__init__(**more)


class Block(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Stack(T.PreTrainedModel):
    config_class = StackConfig
    main_input_name = "x"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            Block(config.per_layer_config[i]) for i in range(config.num_hidden_layers)
        )
        self.head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_layers_of_different_widths_are_described_where_the_class_reads_entries(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    result = torchthin.prune(Stack(StackConfig()).eval(), x, {"*layers.1.*": 0.5, "*layers.2.*": 0.25})
    save_pretrained(result.model, tmp_path / "thin", x)
    entries = json.loads((tmp_path / "thin" / "config.json").read_text())
    assert entries["intermediate_size"] == 12
    assert entries["per_layer_config"] == {"1": {"intermediate_size": 6}, "2": {"intermediate_size": 9}}
    loaded = Stack.from_pretrained(tmp_path / "thin").eval()
    assert torch.equal(loaded(x), result.model(x))


def test_entries_that_are_there_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    model = Stack(StackConfig(per_layer_config={0: {"intermediate_size": 20}})).eval()
    result = torchthin.prune(model, x, {"*layers.2.*": 0.25})
    save_pretrained(result.model, tmp_path / "thin", x)
    sizes = [layer.up.out_features for layer in Stack.from_pretrained(tmp_path / "thin").layers]
    assert sizes == [20, 12, 9]
