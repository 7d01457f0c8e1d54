"""--help: a page that is made of the comments in conf/."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm.configuration import flat
from minillm.help_page import choices, defaults, help_page

Run = Callable[..., Any]
CONF = Path(__file__).parent.parent.parent / "conf"
SCRIPTS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_has_a_page_that_fits_and_whose_settings_exist(run_script: Run, name: str) -> None:
    ended = run_script(name, "--help")
    assert (ended.status, ended.stderr) == (0, "")
    page = ended.stdout
    # A command that is broken over two lines cannot be copied.
    assert all(len(line) <= 80 or "scripts/" in line or line.startswith("  ... ") for line in page.splitlines())
    examples, rest = page.split("\nExamples:\n")[1].split("\nSettings")
    assert 3 <= examples.count(f"python scripts/{name}.py") <= 5
    settings = [line.split()[0] for line in rest.split("\n\n")[0].splitlines()[1:] if line[2:3] != " "]
    assert 3 <= len(settings) <= 20
    leaves = flat(defaults(name, CONF))
    assert {setting.partition("=")[0] for setting in settings} <= {*leaves, *defaults(name, CONF)}
    assert not list(Path().iterdir())


def test_each_choice_has_a_line_that_says_what_it_is_for() -> None:
    for group in (path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        for name, what in choices(group, CONF):
            assert len(what) > 6, f"conf/{group}/{name}.yaml opens with no line that says what it is for"


def test_a_wider_terminal_is_used_and_the_choice_that_is_taken_is_marked() -> None:
    page = help_page("train", CONF, 120)
    assert 100 < max(map(len, page.splitlines())) <= 120
    assert "  * word  The most frequent words, punctuation apart; the rest is [UNK]\n" in page
    assert re.search(r"python scripts/train.py model=minigpt data.vocab_size=5000 +the main job\n", page)
    assert "optimizer.lr=0.0003" in page
