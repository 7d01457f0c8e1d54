import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minillm.files import remove_leftovers, written_whole

DIE = """
import os, signal, sys
from minillm.files import written_whole
with written_whole(sys.argv[1]) as temporary:
    temporary.write_text("half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path: Path, text: str, fail: bool = False) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text)
        assert temporary.parent == path.parent  # on the same disk: a move there is one act
        if fail:
            raise RuntimeError("interrupted")


def write_folder(path: Path, fail: bool = False) -> None:
    with written_whole(path) as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a.txt").write_text("whole")
        assert not path.exists()
        if fail:
            raise RuntimeError("interrupted")


def test_a_file_appears_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, "one")
    write(path, "two")
    assert path.read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_keeps_the_file_before_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(RuntimeError, match="interrupted"):
        write(path, "half", fail=True)
    assert not list(tmp_path.iterdir())
    write(path, "whole")
    with pytest.raises(RuntimeError, match="interrupted"):
        write(path, "half", fail=True)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_with_all_its_files_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError, match="interrupted"):
        write_folder(path, fail=True)
    assert not list(tmp_path.iterdir())
    write_folder(path)
    assert (path / "inner" / "a.txt").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_process_leaves_the_file_before_and_the_next_one_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write(path, "before")
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", DIE, str(path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert path.read_text() == "before"
    write(path, "after")
    assert path.read_text() == "after"


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer one ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_does_not_exist_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "a.txt", "text")


def test_what_killed_processes_left_of_a_path_can_be_removed(tmp_path: Path) -> None:
    for name in "a.txt", "b.txt":
        subprocess.run([sys.executable, "-c", DIE, str(tmp_path / name)], check=False)
    (tmp_path / ".a.txt.0123abcd.tmp").mkdir()
    write(tmp_path / "a.txt", "whole")
    remove_leftovers(tmp_path / "a.txt")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert left[0].startswith(".b.txt.")
    assert left[1] == "a.txt"
