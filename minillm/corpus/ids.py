"""Ids of pages and revisions: parsing, and compact sets of ids."""

from collections.abc import Iterable

LARGEST_ID = 2**63 - 1  # the largest integer of SQLite and Arrow
VALID = "from 0 to 2^63 - 1"
BITS = 1024  # ids in a block


def number_of(text: object, signed: bool = False) -> int | None:
    """Return the number written in ASCII digits if it is a valid id; otherwise None.

    Args:
        text: the text, or an object that is converted to text.
        signed: whether a minus sign is allowed.

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
    """A set of ids as blocks of bits; a wiki's ids are dense, so each takes about two bits.

    Args:
        ids: the initial content.
    """

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._blocks: dict[int, int] = {}
        for page_id in ids:
            self.add(page_id)

    def add(self, page_id: int) -> bool:
        """Add an id; return whether it was new."""
        block, bit = page_id // BITS, 1 << page_id % BITS
        before = self._blocks.get(block, 0)
        self._blocks[block] = before | bit
        return not before & bit

    def __contains__(self, page_id: object) -> bool:
        return isinstance(page_id, int) and bool(self._blocks.get(page_id // BITS, 0) & 1 << page_id % BITS)
