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
from minillm.parallel import batches, cores, in_order

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


def test_the_cores_are_those_that_may_be_used() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
