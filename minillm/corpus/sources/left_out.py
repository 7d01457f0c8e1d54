"""What a source cannot use: the first are named, all are counted, and the rest of the input is read."""

import logging

log = logging.getLogger(__name__)

WARNINGS = 10  # so many are named; the rest is counted


class LeftOut:
    """The records of one input that cannot be used.

    Args:
        source: the input, as its user named it.
        records: what they are called there, such as pages.
    """

    def __init__(self, source: object, records: str = "records") -> None:
        self.source, self.records = source, records
        self.count = 0

    def add(self, place: str, problem: str) -> None:
        """Count a record; warn of it while they are few.

        Args:
            place: where it is, such as file and line.
            problem: what is wrong with it, without its text.
        """
        self.count += 1
        if self.count <= WARNINGS:
            log.warning("left out: %s %s", place, problem)

    def sum_up(self) -> None:
        """Say how many there were, where there were any."""
        if self.count:
            log.warning("%s: %d %s could not be used and were left out", self.source, self.count, self.records)
