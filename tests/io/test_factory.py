"""Building the user's model: found here or installed, and every way it can go wrong."""

import sys
from pathlib import Path

import pytest
from torch import nn

from torchthin.errors import FactoryError
from torchthin.io.factory import build_model

MODELS = """
import argparse, helper
from torch import nn

class Net(nn.Linear):
    def __init__(self, width=2):
        super().__init__(width, width)

    @classmethod
    def wide(cls):
        return cls(64)

def small(): return Net()
def sized(width, *, depth=1): return Net(width * depth)
def needs(num_classes, *, in_channels): return Net()
def lazy():
    import lazy_helper
    return Net()
def pair(): return Net(), 3
def raises(): raise RuntimeError("no weights\\nhere")
def exits(): argparse.ArgumentParser().error("wrong")
instance = Net()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "torchthin_test_models.py").write_text(MODELS)
    (tmp_path / "helper.py").touch()
    (tmp_path / "lazy_helper.py").touch()
    (tmp_path / "broken_models.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "syntax_models.py").write_text("def (:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("torchthin_test_models", "helper", "lazy_helper", "broken_models", "syntax_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def width(model: nn.Module) -> int:
    assert isinstance(model, nn.Linear)
    return model.in_features


def test_modules_and_files_from_here_and_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = list(sys.path)
    assert width(build_model("torchthin_test_models:small")) == 2
    assert width(build_model("torchthin_test_models.py:Net", {"width": 5})) == 5
    assert width(build_model("torchthin_test_models:Net.wide")) == 64
    assert width(build_model("torchthin_test_models:sized", {"width": 3, "depth": 2})) == 6
    monkeypatch.chdir("/")
    assert width(build_model(f"{folder}/torchthin_test_models.py:lazy")) == 2
    assert width(build_model("torch.nn:Linear", {"in_features": 7, "out_features": 1})) == 7
    assert sys.path == path


CASES = {
    "no colon": ("torchthin_test_models", "must be package.module:function"),
    "no function": ("torchthin_test_models:", "must be package.module:function"),
    "no module": ("nowhere_at_all.models:net", "no module nowhere_at_all "),
    "no file": ("nowhere.py:net", "there is no such file"),
    "missing import": ("broken_models:net", "ModuleNotFoundError: No module named 'not_installed_anywhere'"),
    "syntax": ("syntax_models.py:net", "SyntaxError"),
    "misspelt": ("torchthin_test_models:smal", "has no 'smal'. Did you mean 'small'"),
    "not callable": ("torchthin_test_models:number", "is of type int"),
    "an instance": ("torchthin_test_models:instance", "is a model; wrap it in a function"),
    "arguments": (
        "torchthin_test_models:needs",
        """--factory-args '{"num_classes": ..., "in_channels": ...}'""",
    ),
    "raises": ("torchthin_test_models:raises", "raised RuntimeError: no weights here"),
    "exits": ("torchthin_test_models:exits", "raised SystemExit: 2"),
    "no model": ("torchthin_test_models:pair", "It returned tuple"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_goes_wrong_is_said(folder: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    factory, message = CASES[case]
    path = list(sys.path)
    with pytest.raises(FactoryError) as raised:
        build_model(factory)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert sys.path == path


def test_an_unknown_argument_shows_the_signature(folder: Path) -> None:
    with pytest.raises(FactoryError, match=r"unexpected keyword argument 'wdith'\. It takes \(width=2\)"):
        build_model("torchthin_test_models:Net", {"wdith": 3})


def test_two_files_of_one_name_do_not_mix(folder: Path) -> None:
    for number in (1, 2):
        (folder / str(number)).mkdir()
        (folder / str(number) / "net.py").write_text(
            f"from torch import nn\ndef net(): return nn.Linear({number}, 1)\n"
        )
    assert [width(build_model(f"{number}/net.py:net")) for number in (1, 2)] == [1, 2]
