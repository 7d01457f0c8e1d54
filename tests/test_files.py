import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm.errors import OutsideError
from minillm.files import SUMS, is_whole, written_whole

DIE = """
import os, signal, sys
from minillm.files import written_whole
with written_whole(sys.argv[1], folder="folder" in sys.argv) as temporary:
    (temporary / "a.txt" if "folder" in sys.argv else temporary).write_text("half of")
    print("written", flush=True)
    if "live" in sys.argv:
        sys.stdin.readline()
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""
CHECK = """
import sys
from collections.abc import Callable
from pathlib import Path
from minillm.files import is_whole
print(is_whole(Path(sys.argv[1])))
"""


def write(path: Path, text: str, fail: bool = False) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text)
        assert temporary.parent == path.parent  # on the same disk: a move there is one act
        if fail:
            raise RuntimeError("interrupted")


def write_folder(path: Path, fail: bool = False) -> None:
    with written_whole(path, folder=True) as temporary:
        (temporary / "inner").mkdir()
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


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_what_killed_writers_left_the_next_one_removes_and_what_a_live_one_writes_it_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIE]
    for name, *options in ("a",), ("b", "folder"), ("c", "folder"):
        subprocess.run([*command, tmp_path / name, *options], check=False, stdout=subprocess.DEVNULL)
        [left_over] = tmp_path.iterdir()  # the last one's alone
        assert left_over.name.startswith(f".{name}.")
    live = [
        subprocess.Popen([*command, *arguments, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for arguments in ([tmp_path / "live.txt"], [tmp_path / "live", "folder"])
    ]
    for process in live:
        assert process.stdout is not None
        process.stdout.readline()
    write(tmp_path / "a.txt", "whole")
    assert sorted(path.name.split(".")[1] for path in tmp_path.glob(".*.tmp")) == ["live", "live"]
    for process in live:
        process.communicate(b"\n")
        assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "live", "live.txt"]


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "cut short": ("inner/a.txt", lambda file: file.write_text("whol")),
    "grown": ("inner/a.txt", lambda file: file.write_text("wholes")),
    "changed": ("inner/a.txt", lambda file: file.write_text("whOle")),
    "empty": ("inner/a.txt", lambda file: file.write_text("")),
    "missing": ("inner/a.txt", lambda file: file.unlink()),
    "without sums": (SUMS, lambda file: file.unlink()),
    "empty sums": (SUMS, lambda file: file.write_text("")),
    "sums cut short": (SUMS, lambda file: file.write_text(file.read_text().splitlines(keepends=True)[0])),
    "other sums": (SUMS, lambda file: file.write_bytes(b"\xff\x00")),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_named_and_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    path = tmp_path / "folder"
    assert not is_whole(path)
    write_folder(path)
    assert is_whole(path)
    (path / ".DS_Store").write_text("what a file manager left")
    assert is_whole(path)
    name, damage = DAMAGE[case]
    damage(path / name)
    assert not is_whole(path)
    assert caplog.messages == [f"{path} is damaged ({name}), made again"]
    assert not list(tmp_path.iterdir())


def test_the_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    with contextlib.suppress(FileNotFoundError):  # not every system has it
        subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path / "folder", check=True)


def test_a_folder_is_read_once_by_a_process_and_those_that_it_starts(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path)
    assert is_whole(path)
    file = path / "inner" / "a.txt"
    before = file.stat()
    file.write_text("whOle")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_whole(path)
    command, alone = [sys.executable, "-c", CHECK, str(path)], {**os.environ, "MINILLM_VERIFIED": ""}
    assert subprocess.check_output(command, text=True) == "True\n"
    assert subprocess.check_output(command, text=True, env=alone, stderr=subprocess.DEVNULL) == "False\n"


def test_a_damaged_folder_that_cannot_be_removed_is_one_line(
    tmp_path: Path, read_only: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    path = tmp_path / "folder"
    write_folder(path)
    (path / "inner" / "a.txt").write_text("whOle")
    with read_only(tmp_path), pytest.raises(OutsideError, match=r"is damaged .*, and cannot be made again: ") as caught:
        is_whole(path)
    assert "\n" not in str(caught.value)
    assert path.exists()
