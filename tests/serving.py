"""scripts/demo.py as a process of its own."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


@contextmanager
def demo(*arguments: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Start the script on a free port; yield the page's address, and the process."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "demo.py"), "port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+) shows .+; Ctrl-C ends it\n", said)
        assert found, said + process.communicate()[1]
        yield found[1], process
    finally:
        process.kill()
        process.communicate()
