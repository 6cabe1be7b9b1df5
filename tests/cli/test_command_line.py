"""What all commands share: help without torch, configuration files, completion, and interrupts."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cli_page
import pytest
import yaml
from workplace import ROOT, Outcome, Workplace

import torchthin
from torchthin.cli.main import COMMANDS, main, program
from torchthin.cli.prune_options import file_flags
from torchthin.cli.targets import METHODS

ENV = {"PYTHONPATH": str(Path(torchthin.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


HELP = """
import contextlib, io, re, sys
import pose_demo.cli, torchthin.cli.prune
from torchthin.cli.main import COMMANDS, main

programs = [(main, []), *((main, [name]) for name in COMMANDS), (torchthin.cli.prune.main, []), (pose_demo.cli.main, [])]
for program, words in programs:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        program([*words, "--help"])
    assert re.search(r"\\nexample:\\n  \\S.*\\Z", out.getvalue(), re.DOTALL), (program, words)
    assert not {"torch", "numpy", "rich", "jinja2"} & set(sys.modules), (program, words)
main(["prune", "--print-schema"])
assert "torch" not in sys.modules
"""


def test_help_answers_without_torch_and_with_an_example() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pruen",), "Did you mean 'prune'? See torchthin --help."),
        (("verify", "--toleranse", "1"), "Did you mean '--tolerance'? See torchthin verify --help."),
        (
            ("inspect", "--latency", "1"),
            "Unknown argument '--latency'. See torchthin inspect --help.",
        ),  # it is compare's
    ],
)
def test_what_is_unknown_gets_the_nearest_of_its_command(
    place: Workplace, arguments: tuple[str, ...], message: str
) -> None:
    def run(*given: str) -> Outcome:
        return place.run(*given, main=main)

    place.assert_refused(message, *arguments, run=run)


def test_the_printed_configuration_makes_the_same_run(place: Workplace) -> None:
    flags = (
        "--model-factory", "net.py:net", "--input-shape", "1,3,8,8", "--target-sparsity", "0.25", "--keep", "conv2*",
        "--thin", "--method", "l1-structured",
    )  # fmt: skip
    printed = place.run("prune", *flags, "--print-config", main=main)
    assert printed.code == 0, printed.err
    assert yaml.safe_load(printed.out)["target_sparsity"] == 0.25
    (place.path / "run.yaml").write_text(printed.out)
    again = place.run("prune", "--config", "run.yaml", "--print-config", main=main)
    assert again.out == printed.out
    both = [place.run("prune", *how, "--json", main=main) for how in (flags, ("--config", "run.yaml"))]
    assert [outcome.code for outcome in both] == [0, 0]
    assert both[0].out == both[1].out


def test_the_schema_names_what_the_reader_accepts(place: Workplace) -> None:
    schema = json.loads(place.run("prune", "--print-schema", main=main).out)
    names = set(file_flags())
    assert {name for name in schema["properties"] if "-" not in name} == names
    assert {name for name in schema["properties"] if "-" in name} == {
        name.replace("_", "-") for name in names if "_" in name
    }
    assert schema["additionalProperties"] is False
    assert set(METHODS) <= set(schema["properties"]["method"]["enum"])
    assert schema["properties"]["target_sparsity"]["type"] == "number"
    assert schema["properties"]["target_sparsity"]["description"].startswith("share of channels")
    assert {"type": "null"} in schema["properties"]["weights"]["anyOf"]
    assert {"type": "number"} in schema["properties"]["target_macs"]["anyOf"]
    jsonschema = pytest.importorskip("jsonschema")
    printed = {"method": "l1-structured", "keep": ["a"], "target-macs": "0.5x", "thin": True}
    jsonschema.validate({**printed, "data_std": [0.2, 0.3], "recover": False, "save_to": None}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"methd": "l1-structured"}, schema)


def completed(script: str, *words: str) -> set[str]:
    """Ask a real bash what it would complete the last word to."""
    line = " ".join(f"'{word}'" for word in words)
    ask = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _torchthin; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_flags(place: Workplace) -> None:
    script = place.run("completion", "bash", main=main).out
    assert completed(script, "torchthin", "") == set(COMMANDS)
    assert completed(script, "torchthin", "ex") == {"export"}
    assert completed(script, "torchthin", "export", "--dyn") == {"--dynamic-batch"}
    assert completed(script, "torchthin", "prune", "net") == set()  # files, which bash knows


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_flag(place: Workplace, shell: str) -> None:
    script = place.run("completion", shell, main=main).out
    for name, parser in program().commands().items():
        assert name in script
        for flag in parser.flags():
            if flag.startswith("--"):
                assert (flag if shell == "zsh" else f"-l {flag[2:]}") in script
    if shutil.which(shell) is not None:
        (place.path / "script").write_text(script)
        subprocess.run([shell, "-n", "script"], check=True)


def test_an_unknown_shell_is_refused(place: Workplace) -> None:
    def run(*given: str) -> Outcome:
        return place.run("completion", *given, main=main)

    place.assert_refused("must be one of bash, zsh, fish. Got 'tcsh'", "tcsh", run=run)


def test_the_page_of_the_command_line_has_every_flag() -> None:
    """After a change: ``python tests/cli_page.py``."""
    page = cli_page.PAGE.read_text(encoding="utf-8")
    assert sorted(cli_page.described(page)) == sorted(COMMANDS)
    assert page == cli_page.renewed(page)


SLOW = """
import time
from pathlib import Path
import net

def slow():
    Path("started").touch()
    time.sleep(3600)
    return net.net()

def train(model, step):
    if step == 2:
        slow()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("how", ["building", "training"])
def test_an_interrupt_leaves_no_half_file_and_says_how_to_go_on(place: Workplace, how: str) -> None:
    (place.path / "slow.py").write_text(SLOW)
    factory = "slow.py:slow" if how == "building" else "net.py:net"
    more = ("--train", "slow.py:train", "--agp-steps", "3") if how == "training" else ()
    flags = ("--model-factory", factory, "--input-shape", "1,3,8,8", "--save-to", "out.pth", *more)
    process = place.started("prune", *flags, main=main)
    process.wait_for((place.path / "started").exists)
    outcome = process.stop(signal.SIGINT)
    assert (outcome.code, outcome.err.count("\n")) == (130, 1), outcome
    assert "interrupted. No file is left half written." in outcome.err
    assert ("--resume" in outcome.err) == (how == "training")
    left = {path.name for path in place.path.iterdir()} - {"net.py", "best.pth", "slow.py", "started"}
    assert left == ({"out.pth.state"} if how == "training" else set())


def test_help_shows_the_usual_flags_and_help_all_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            main(["prune", flag])
        shown[flag] = capsys.readouterr().out
    assert all("--target-macs LIMIT" in text for text in shown.values())
    assert ["--print-schema" in text for text in shown.values()] == [False, True]
    assert main([]) == 0
    assert "{prune,inspect" in capsys.readouterr().out


def test_a_reader_that_ends_does_not_end_the_run(place: Workplace) -> None:
    code = "import sys; from torchthin.cli.main import main; sys.exit(main())"
    flags = "prune net.py:net --input-shape 1,3,8,8 --thin --save-to thin.pth"
    ask = f'"{sys.executable}" -c "{code}" {flags} | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", ask], env={**os.environ, **ENV}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    assert (place.path / "thin.pth").exists()
