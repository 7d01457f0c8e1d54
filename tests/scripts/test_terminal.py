"""What training shows, at a terminal of 80 and of 120 columns, and where there is none."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LINE = re.compile(r"\d\d:\d\d:\d\d INFO (epoch (\d)/3: val \d+\.\d{3} bits/byte, loss [^\r\n]* left)\r?\n")


def shown_at(columns: int, *words: str) -> str:
    """Return all that training writes to a terminal."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words]
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(command, stdin=side, stdout=subprocess.DEVNULL, stderr=side, env=environment)
    os.close(side)
    shown = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(main)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_each_epoch_has_one_line_above_the_bar_that_fits_and_uses_the_width(
    tiny: tuple[str, ...], columns: int
) -> None:
    shown = shown_at(columns, *tiny, "trainer.max_epochs=3", "evaluation=none")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", plain) if line.strip()]
    assert max(map(len, lines)) <= columns
    epochs = LINE.findall(plain)
    assert [epoch for _, epoch in epochs] == ["1", "2", "3"]
    for line, _ in epochs:
        assert ("tokens/s" in line and "of peak" in line and "train " in line) is (columns == 120)
    bars = [line for line in lines if "━" in line and ("epoch 3/3" in line or "validation" in line)]
    assert any(re.search(r"val \d\.\d+ bits/byte, .*0:00:0\d left", bar) for bar in bars)
    assert "epoch 0" not in plain


def test_a_file_gets_one_line_per_epoch_without_control_characters_and_nothing_of_other_programs(
    tiny: tuple[str, ...], tmp_path: Path
) -> None:
    # Where a cluster's srun is on the PATH, Lightning would advise to use it.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "srun").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *tiny, "trainer.max_epochs=3", "evaluation=none"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.splitlines()
    assert [LINE.fullmatch(f"{line}\n") is not None for line in lines] == [True] * 3, ended.stderr
    assert all("tokens/s" in line and "of peak" in line for line in lines)
    assert ended.stderr.replace("\n", "").isprintable()
