"""The memory that a process takes."""

import subprocess
import sys

import numpy as np

from minillm.memory import MIB, peak_mib, resident_mib

CHILD = "from minillm.memory import peak_mib; print(peak_mib())"


def test_the_peak_stays_when_the_memory_is_freed_and_no_child_inherits_it() -> None:
    before = resident_mib()
    assert np.ones(300 * MIB, dtype=np.uint8).any()
    assert peak_mib() >= before + 290
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 5 < float(child.stdout) < 150
