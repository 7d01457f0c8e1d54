import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from minillm.errors import OutsideError
from minillm.parallel import batches, cores, in_order, side_by_side

ROOTS: Any = np.sqrt  # works in another process: its module can be imported there
END: Any = sys.exit
ENDLESS = """
from itertools import count
import numpy as np
from minillm.parallel import batches, in_order
print("runs", flush=True)
for item, root in in_order(np.sqrt, batches(count(), 10), 2):
    if item == 100:
        print("goes", flush=True)
"""


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 29, 300])
def test_each_item_comes_with_its_result_in_order(processes: int, number: int) -> None:
    results = list(in_order(ROOTS, batches(range(number), 7), processes))
    assert results == [(item, np.sqrt(item)) for item in range(number)]


def test_few_batches_are_under_way_at_a_time() -> None:
    drawn = 0

    def counted() -> Iterator[list[int]]:
        nonlocal drawn
        for drawn in range(1, 100):
            yield [drawn]

    for item, _ in in_order(ROOTS, counted(), 2):
        assert drawn - item <= 4


def test_what_the_function_raises_is_raised_and_no_process_stays() -> None:
    before = psutil.Process().children()
    with pytest.raises(TypeError, match="sqrt"):
        list(in_order(ROOTS, [[4.0], ["cuatro"], [9.0]], 2))
    for _ in in_order(ROOTS, batches(range(1000), 10), 2):
        break
    assert psutil.Process().children() == before


@pytest.mark.parametrize("processes", [1, 2])
def test_the_batches_before_an_error_in_reading_them_are_worked_on(processes: int) -> None:
    def broken() -> Iterator[list[int]]:
        yield from batches(range(50), 10)
        raise OSError("cut off")

    taken: list[int] = []
    with pytest.raises(OSError, match="cut off"):
        taken.extend(item for item, _ in in_order(ROOTS, broken(), processes))
    assert taken == list(range(50))


def test_a_process_that_ends_early_is_one_line_that_says_what_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OutsideError, match=r"ended early.*run the same command again") as caught:
        list(in_order(END, [["fin"]] * 5, 2))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_the_script_is_not_run_again_and_its_sudden_end_is_that_of_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)  # it has no `if __name__ == "__main__"`
    (tmp_path / "random.py").write_text("raise SystemExit")  # nor are its neighbours taken for modules
    path = str(Path(__file__).parent.parent)
    with subprocess.Popen(
        [sys.executable, "-P", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout
        assert started.stderr
        assert [started.stdout.readline() for _ in range(2)] == ["runs\n", "goes\n"]
        children = psutil.Process(started.pid).children()
        assert len(children) == 2
        started.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
        assert (started.stdout.read(), started.stderr.read()) == ("", "")


COUNTING = """
import os
def count(item, tell):
    first, last = item
    for number in range(first, last):
        if number % 10 == 0:
            tell(number)
        if number == 70:
            raise OSError(f"at {number}")
        if number == 90:
            os._exit(3)
        yield [number] * 1000
"""


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function of (first, last) that yields the numbers between; it raises at 70, and at 90 its process ends."""
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return importlib.import_module("counting").count


@pytest.mark.parametrize("processes", [1, 2, 9])
def test_large_items_are_worked_on_side_by_side_and_their_results_come_in_order(
    count: Any, tmp_path: Path, processes: int
) -> None:
    told = []
    items = [(0, 25), (25, 30), (30, 30), (30, 60)]
    results = side_by_side(count, items, processes, tmp_path, lambda item, number: told.append((item, number)))
    assert [result[-1] for result in results] == list(range(60))
    assert sorted(told) == [(0, 0), (0, 10), (0, 20), (3, 30), (3, 40), (3, 50)]
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["counting.py"]


@pytest.mark.parametrize(("end", "error", "message"), [(70, OSError, "at 70"), (90, OutsideError, "ended early")])
def test_what_an_item_yielded_before_an_error_comes_before_it(
    count: Any, tmp_path: Path, end: int, error: type[Exception], message: str
) -> None:
    taken: list[int] = []
    before = psutil.Process().children()
    results = side_by_side(count, [(0, 5), (end - 5, 99), (0, 9)], 2, tmp_path, lambda *told: None)
    with pytest.raises(error, match=message):
        taken.extend(result[0] for result in results)
    assert taken == [*range(5), *range(end - 5, end)]
    assert psutil.Process().children() == before


def test_who_takes_no_more_leaves_no_process(count: Any, tmp_path: Path) -> None:
    before = psutil.Process().children()
    results = side_by_side(count, [(0, 60)] * 5, 2, tmp_path, lambda *told: None)
    assert next(results)[0] == 0
    results.close()  # type: ignore[attr-defined]
    assert psutil.Process().children() == before


def test_the_cores_are_those_that_may_be_used() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
