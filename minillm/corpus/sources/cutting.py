"""Cutting one large text, such as a book, into articles as a stream: it is never in memory whole."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from minillm.errors import SettingError

VERSION = 1  # raised when the same text is cut elsewhere
LONGEST_LINE = 1 << 16  # bytes; a longer line is cut at a space
NEVER = 1 << 62
MAX_ARTICLE = 1_000_000  # characters; an article is in memory whole
MAX_HEADING = 80  # characters
MARKED = re.compile(r"(?:#{1,6}\s|={2,6}[^=]+={2,6}$)")  # headings of Markdown and of wikis
SENTENCE_ENDS = (".", ",", ";", ":", "!", "?", "…", "-", "—", '"', "»", "”", "'", "’", ")")


class Part(NamedTuple):
    """A part of a text.

    Attributes:
        line: number of its first line, from 1.
        middle: position of its middle in the file, in bytes.
        content: its bytes.
    """

    line: int
    middle: float
    content: bytes


@dataclass(frozen=True)
class Cut:
    """Where a text may be cut, by the length of the current part: before a heading, at a blank line, or anywhere.

    A part of twice ``line`` characters is cut within a line.

    Args:
        heading: characters after which the next heading begins a new part.
        blank: the same for the next blank line.
        line: the same for the next line.
    """

    heading: int
    blank: int
    line: int = MAX_ARTICLE

    @classmethod
    def at(cls, cut: str | int) -> "Cut":
        """Return the cuts of a setting: headings, blank_lines, or the approximate characters per part.

        Raises:
            SettingError: it is none of these.
        """
        if cut == "headings":
            return cls(heading=1, blank=NEVER)
        if cut == "blank_lines":
            return cls(heading=1, blank=1)
        if isinstance(cut, int) and not isinstance(cut, bool) and 1 <= cut <= MAX_ARTICLE // 2:
            return cls(heading=max(1, cut // 2), blank=cut, line=2 * cut)
        advice = "must be auto, null (a file is an article), headings, blank_lines, or characters, up to"
        raise SettingError("cut", cut, f"{advice} {MAX_ARTICLE // 2:,}, such as 4000")

    def parts(self, file: BinaryIO) -> Iterator[Part]:
        """Yield the parts of a file in order; together they are the file without the blank lines between them.

        Args:
            file: open for reading, at its beginning. A line ends with a line feed.
        """
        lines: list[bytes] = []
        first, start, end, characters, blank = 1, 0, 0, 0, True
        for number, line in _lines(file):
            text = line.decode("utf-8", "replace")
            empty = not text.strip()
            if (
                (blank and characters >= self.heading and not empty and _may_be_heading(text))
                or (empty and characters >= self.blank)
                or characters >= self.line
            ) and (lines or not empty):
                if characters:
                    yield Part(first, (start + end) / 2, b"".join(lines))
                lines, characters = [], 0
            if not lines:
                first, start = number, end
            end += len(line)
            if lines or not empty:
                lines.append(line)
                characters += len(text.strip())
            blank = empty
        if characters:
            yield Part(first, (start + end) / 2, b"".join(lines))


def _may_be_heading(text: str) -> bool:
    """Return whether a line after a blank one looks like a heading: short, and without a sentence's end.

    A verse or a line of a dialogue may look like one, too; a part that begins there does no harm.
    """
    text = text.strip("\ufeff \t\r\n\f")
    if MARKED.match(text):
        return True
    short = len(text) <= MAX_HEADING and not text.endswith(SENTENCE_ENDS)
    return short and (text[0].isupper() or text[0].isdigit()) and any(map(str.isalnum, text))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; long ones in pieces, cut at a space or between two characters."""
    number, rest = 1, b""
    while line := rest + file.readline(LONGEST_LINE - len(rest)):
        rest = b""
        if not line.endswith(b"\n") and len(line) == LONGEST_LINE:
            end = line.rfind(b" ", LONGEST_LINE // 2) + 1 or _between(line)
            line, rest = line[:end], line[end:]
        yield number, line
        number += line.endswith(b"\n")


def _between(line: bytes) -> int:
    """Return the last position that does not split a UTF-8 character."""
    for end in range(len(line) - 1, max(0, len(line) - 5), -1):
        if line[end] & 0b1100_0000 != 0b1000_0000:
            return end
    return len(line)
