"""docs/transformers.md does what it says, on a small model."""

import re
import shlex
import warnings
from pathlib import Path

import pytest
import torch
from tiny_pretrained import FAMILIES, T
from tiny_tokenizers import save_bert

from torchthin.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "transformers.md").read_text(encoding="utf-8")


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    commands = re.findall(r"^    torchthin (.*)$", PAGE, re.MULTILINE)
    assert (len(blocks), len(commands)) == (3, 3)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers
        config = FAMILIES["llama"].model().config
        config.num_hidden_layers = 3
        T.LlamaForCausalLM(config).save_pretrained("my-llama")
        torch.save({"input_ids": torch.randint(3, 96, (8, 16))}, "texts.pt")
        for code in blocks:
            exec(compile(code, "page.py", "exec"), names)
        shown = capsys.readouterr().out.splitlines()
        _write_bert()
        assert [main(shlex.split(command)) for command in commands] == [0, 0, 0]
        german = T.AutoTokenizer.from_pretrained("my-bert-german")
        short = T.AutoConfig.from_pretrained("my-llama-short")
        loaded = T.AutoModelForCausalLM.from_pretrained("my-llama-small").state_dict()
    assert shown[0].startswith("exact: ")
    assert len(german) < len(T.AutoTokenizer.from_pretrained("my-bert"))
    assert shown[1:3] == ["36 of 48", "1 of 2"]
    assert (
        shown[3].startswith("Layers: 1 of 3 left out, ")
        and "on 8 calibration inputs: model.layers.1 (" in shown[3]
    )
    assert short.num_hidden_layers == 2
    uneven = names["smaller"].state_dict()
    expected = names["result"].model.state_dict()
    for state in (loaded, uneven):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())


def _write_bert() -> None:
    save_bert(Path("my-bert"))
    Path("german.txt").write_text("the fox removes channels\n", encoding="utf-8")
