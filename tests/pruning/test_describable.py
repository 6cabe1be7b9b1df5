"""Even cuts leave out what no configuration describes, and say so before anything is cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pretrained import FAMILIES, T
from torch import Tensor, nn

import torchthin
from torchthin.errors import InputError

pytestmark = pytest.mark.usefixtures("foreign_warnings")


def pruned(name: str, target: torchthin.Ratio) -> torchthin.PruneResult:
    family = FAMILIES[name]
    return torchthin.prune(family.model(), family.example, target, proof="quick")


def described(result: torchthin.PruneResult) -> list[str]:
    return [note for note in result.report.notes if "onfiguration describes" in note]


def test_heads_that_share_the_hidden_width_stay_where_nothing_was_chosen(tmp_path: Path) -> None:
    result = pruned("bert", torchthin.Ratio(0.5, even=True))
    (note,) = described(result)
    assert note.startswith("Some heads stay (encoder.layer.0.attention.self.query.weight, ")
    assert "hidden_size of BertConfig is one number for" in note and "\n" not in note
    result.save_pretrained(tmp_path / "thin")
    small = T.BertModel.from_pretrained(tmp_path / "thin")
    assert small.config.intermediate_size == 24
    assert small.encoder.layer[0].attention.self.query.out_features == 32


def test_they_go_without_even_and_where_they_were_asked_for(tmp_path: Path) -> None:
    asked = torchthin.Ratio({"mlp": 0.5, "heads": 0.5}, even=True)
    for target, notes in ((torchthin.Ratio(0.5), 0), (asked, 1)):
        result = pruned("bert", target)
        assert result.model.encoder.layer[0].attention.self.query.out_features == 16
        assert len(described(result)) == notes
    with pytest.raises(InputError, match="No configuration describes the pruned BertModel"):
        result.save_pretrained(tmp_path / "thin")
    assert not (tmp_path / "thin").exists()


def test_nothing_is_said_where_a_configuration_describes_all() -> None:
    result = pruned("llama", torchthin.Ratio(0.5, even=True))
    assert described(result) == []
    assert result.model.model.layers[0].self_attn.k_proj.out_features == 8


class ParallelConfig(T.PreTrainedConfig):
    model_type = "parallel-of-a-test"

    def __init__(self, hidden_size: int = 8, intermediate_size: int = 12, **more: Any):
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        super().__init__(**more)


class Parallel(T.PreTrainedModel):
    """A block with two branches: the width of one is a field, that of the other is made of the hidden one and rounded."""

    config_class = ParallelConfig
    main_input_name = "x"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, inner = config.hidden_size, 4 * (config.intermediate_size // 3)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.into, self.back = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.post_init()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.down(self.up(x).relu()) + self.back(self.into(x).tanh()))


def test_a_branch_without_a_field_stays_and_a_rounded_field_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    result = torchthin.prune(Parallel(ParallelConfig()).eval(), x, torchthin.Ratio({"mlp": 0.5}, even=True))
    (note,) = described(result)
    assert note.startswith("Some mlp stay (into.weight)")
    assert (result.model.up.out_features, result.model.into.out_features) == (8, 8)
    result.save_pretrained(tmp_path / "thin")
    assert json.loads((tmp_path / "thin" / "config.json").read_text())["intermediate_size"] in (6, 7, 8)
    assert torch.equal(Parallel.from_pretrained(tmp_path / "thin").eval()(x), result.model(x))
