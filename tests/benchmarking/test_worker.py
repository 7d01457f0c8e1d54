"""Contestants' processes: turns, memory of their own, and failures that are told in one line."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minillm.benchmarking.worker import Turns, Unavailable, Worker
from minillm.errors import OutsideError, SettingError
from minillm.memory import MIB, resident_mib


def fill(turns: Turns, megabytes: int) -> None:
    """Take memory in the first turn, and keep none of it; print what must not get between the answers."""
    turns.imported("cpu")
    turns.ready(warm=True)
    print("a library's hello", flush=True)
    for about in turns:
        block = np.ones(about["times"] * megabytes * MIB, dtype=np.uint8)
        turns.done(total=int(block.sum(dtype=np.int64)) // MIB)
        del block


def fail(turns: Turns, how: str) -> None:
    """Fail in one of the ways there are."""
    errors: dict[str, Exception] = {
        "missing": Unavailable("it is not installed"),
        "setting": SettingError("model.num_heads", 3, "must divide"),
        "outside": OutsideError("the disk is full"),
        "fault": RuntimeError("two\nlines"),
    }
    if how in errors:
        raise errors[how]
    turns.ready()
    next(iter(turns))
    raise SystemExit(7)


@contextmanager
def worker(tmp_path: Path, function: Callable[..., None], **arguments: Any) -> Iterator[Worker]:
    with closing(Worker(partial(function, **arguments), tmp_path / "log")) as process:
        yield process


def test_turns_come_one_by_one_and_the_peak_is_the_process_s_own(tmp_path: Path) -> None:
    ballast = np.ones(200 * MIB, dtype=np.uint8)  # what this process has must not count
    with worker(tmp_path, fill, megabytes=40) as process:
        assert process.turn() == {"warm": True}
        first, second = process.turn(times=1), process.turn(times=2)
    assert (first["total"], second["total"]) == (40, 80)
    assert 40 <= first["memory"]["training"] < 60
    assert 80 <= second["memory"]["training"] < 100
    assert second["memory"]["peak"] < resident_mib()
    assert second["memory"]["peak"] == pytest.approx(second["memory"]["imports"] + second["memory"]["training"])
    assert "a library's hello" in (tmp_path / "log").read_text()
    assert ballast.any()


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("missing", Unavailable, "it is not installed"),
        ("setting", SettingError, "model.num_heads=3: must divide"),
        ("outside", OutsideError, "the disk is full"),
        ("fault", Unavailable, "RuntimeError: two lines"),
    ],
)
def test_a_failure_is_told_in_one_line(tmp_path: Path, how: str, error: type[Exception], says: str) -> None:
    with worker(tmp_path, fail, how=how) as process, pytest.raises(error) as raised:
        process.turn()
    assert str(raised.value) == says


def test_a_process_that_dies_at_its_turn_is_noticed(tmp_path: Path) -> None:
    with worker(tmp_path, fail, how="dies") as process:
        process.turn()
        with pytest.raises(Unavailable, match="ended with status 7"):
            process.turn()
