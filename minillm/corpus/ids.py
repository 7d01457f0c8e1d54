"""Ids of pages and revisions: which numbers can be one, and sets of them in little memory."""

from collections.abc import Iterable

LARGEST_ID = 2**63 - 1  # SQLite and Arrow hold no larger one
VALID = "from 0 to 2^63 - 1"
BITS = 1024  # ids in a block


def number_of(text: object, signed: bool = False) -> int | None:
    """Return the number that a text of ASCII digits is, within what an id can be; None where it is none.

    Args:
        text: the text, or anything that is written as one.
        signed: it may have a minus sign.

    >>> number_of(" 12 "), number_of("²"), number_of(2**70), number_of("-1"), number_of("-1", signed=True)
    (12, None, None, None, -1)
    """
    digits = text = str(text).strip()
    if signed:
        digits = digits.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > len(str(LARGEST_ID)) or int(digits) > LARGEST_ID:
        return None
    return int(text)


class IdSet:
    """A set of ids as blocks of bits: a wiki's ids are dense, so that each takes about two bits of memory.

    Args:
        ids: what is in it from the beginning.
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._blocks: dict[int, int] = {}
        for page_id in ids:
            self.add(page_id)

    def add(self, page_id: int) -> bool:
        """Put an id in; return False where it is there already."""
        block, bit = page_id // BITS, 1 << page_id % BITS
        before = self._blocks.get(block, 0)
        self._blocks[block] = before | bit
        return not before & bit

    def __contains__(self, page_id: object) -> bool:
        return isinstance(page_id, int) and bool(self._blocks.get(page_id // BITS, 0) & 1 << page_id % BITS)
