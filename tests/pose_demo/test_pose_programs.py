"""``python -m pose_demo.train`` and ``.generate``: wrong input is one line, exit code 2, and nothing is written."""

from pathlib import Path

import pytest

from pose_demo import generate, train


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_people_that_cannot_be_read_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    people = tmp_path / "people.npz"
    if content is not None:
        people.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        train.main(["--people", str(people), "--check", str(people), "--out", str(tmp_path / "out")])
    told = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert str(people) in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--count", "--identities"])
def test_none_of_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        generate.main(["people", flag, "0", "--out", str(tmp_path / "people.npz")])
    assert stopped.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
