"""The memory that a process takes."""

import subprocess
import sys

from minillm.memory import MIB

ALLOCATING = f"""
import subprocess, sys, numpy
from minillm.memory import peak_mib
command = [sys.executable, "-c", "from minillm.memory import peak_mib; print(peak_mib())"]
before = peak_mib()
assert numpy.ones(300 * {MIB}, dtype=numpy.uint8).any()
print(before, peak_mib(), subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode())
"""


def test_the_peak_stays_when_the_memory_is_freed_and_no_child_inherits_it() -> None:
    ended = subprocess.run([sys.executable, "-c", ALLOCATING], capture_output=True, text=True, check=True)
    before, after, childs = map(float, ended.stdout.split())
    assert after >= before + 290
    assert 5 < childs < 150
