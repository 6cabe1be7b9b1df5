"""What a killed process left of a write goes with the next write to the same file; what a living one writes stays."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from torchthin.io.atomic import write_whole
from torchthin.io.temporary import resumed_folder

WRITER = """
import sys, time
from pathlib import Path
from torchthin.io.atomic import write_whole

def slowly(file):
    file.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    file.write_text("whole")

write_whole(Path(sys.argv[1]), slowly)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """Return a process that is in the middle of writing `path`, and goes on when it gets a line."""
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    process = writer(tmp_path / "p.pth")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = names(tmp_path)
    write_whole(tmp_path / "other.pth", lambda file: file.write_text("x"))
    assert names(tmp_path) == [left, "other.pth"]
    write_whole(tmp_path / "p.pth", lambda file: file.write_text("x"))
    assert names(tmp_path) == ["other.pth", "p.pth"]


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    process = writer(tmp_path / "p.pth")
    write_whole(tmp_path / "p.pth", lambda file: file.write_text("x"))
    assert len(names(tmp_path)) == 2
    process.communicate("go on\n")
    assert process.returncode == 0
    assert (names(tmp_path), (tmp_path / "p.pth").read_text()) == (["p.pth"], "whole")


def test_what_only_looks_like_ours_stays(tmp_path: Path) -> None:
    process = writer(tmp_path / "p.pth")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = names(tmp_path)
    target = tmp_path / "elsewhere"
    (tmp_path / left).rename(target)
    (tmp_path / f"{left[:-8]}linklink").symlink_to(target)
    (tmp_path / f"{left[:-8]}filefile").write_text("the user's")
    before = names(tmp_path)
    write_whole(tmp_path / "p.pth", lambda file: file.write_text("x"))
    assert names(tmp_path) == sorted([*before, "p.pth"])
    assert names(target) == ["p.pth"]


RESUMED = """
import os, signal, sys
from pathlib import Path
from torchthin.io.temporary import resumed_folder

with resumed_folder(Path(sys.argv[1]), "these") as folder:
    (folder / "first").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_given_to_the_next_writer_of_the_same(tmp_path: Path) -> None:
    target = tmp_path / "thin"
    killed = subprocess.run([sys.executable, "-c", RESUMED, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(KeyboardInterrupt), resumed_folder(target, "these") as folder:
        assert names(folder) == ["first"]
        raise KeyboardInterrupt
    with resumed_folder(target, "these") as folder, resumed_folder(target, "these") as other:
        assert names(folder) == ["first"] and names(other) == []  # two at once do not share it
    assert names(tmp_path) == []


def test_what_was_begun_for_other_contents_is_removed_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "thin"
    with pytest.raises(KeyboardInterrupt), resumed_folder(target, "these") as folder:
        (folder / "first").write_text("done")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="refused"), resumed_folder(target, "others") as folder:
        assert names(tmp_path) == [folder.name] and names(folder) == []
        raise ValueError("refused")
    assert names(tmp_path) == []
