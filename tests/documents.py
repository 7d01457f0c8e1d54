"""The commands and the code that README and docs/ show."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = (*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md")))
SHELL = ("", "bash", "sh")

CODE = re.compile(r"^```(\w*)\n(.*?)^```$|(?<=\n\n) {4}[^\n]*\n(?:(?: {4}[^\n]*)?\n)*", re.S | re.M)


class Block(NamedTuple):
    """Code as a page shows it: its language as the fence names it ("" for an indented block), and its lines."""

    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, fenced and indented, in order."""
    found = []
    for match in CODE.finditer(page.read_text(encoding="utf-8")):
        if match[2] is not None:
            found.append(Block(match[1] or "text", match[2]))
        else:
            found.append(Block("", re.sub(r"^ {4}", "", match[0], flags=re.M)))
    return found


def commands(page: Path) -> list[str]:
    """Return the lines of a page's shell blocks, without comments; what a backslash breaks is one line."""
    lines = []
    for block in blocks(page):
        if block.language in SHELL and not block.code.startswith(">>>"):
            for line in block.code.replace("\\\n", " ").splitlines():
                if line := without_comment(line):
                    lines.append(line)
    return lines


def without_comment(line: str) -> str:
    """Return a line of the shell without the comment at its end.

    >>> without_comment("python scripts/train.py 'a= #'   # the newest run's")
    "python scripts/train.py 'a= #'"
    """
    quote = ""
    for place, character in enumerate(line):
        if character in "'\"":
            quote = character if not quote else "" if quote == character else quote
        elif character == "#" and not quote and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
    return line.strip()


def script_and_arguments(command: str) -> tuple[str, list[str]] | None:
    """Return a script's name and its arguments; None where a command is no call of a script."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if words[:1] == ["python"] and len(words) > 1 and words[1].startswith("scripts/"):
        return Path(words[1]).stem, words[2:]
    return None
