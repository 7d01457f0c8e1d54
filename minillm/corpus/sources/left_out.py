"""Unusable records of a source: the first ones are named, all are counted, and the rest of the input is read."""

import logging

log = logging.getLogger(__name__)

MAX_WARNINGS = 10  # further records are only counted


class LeftOut:
    """The records of one input that cannot be used.

    Args:
        source: the input, as the user named it.
        records: their name there, such as pages.
    """

    def __init__(self, source: object, records: str = "records") -> None:
        self.source, self.records = source, records
        self.count = 0

    def add(self, place: str, problem: str) -> None:
        """Count a record, and warn about the first ones.

        Args:
            place: its position, such as file and line.
            problem: what is wrong with it, without its text.
        """
        self.count += 1
        if self.count <= MAX_WARNINGS:
            log.warning("left out: %s %s", place, problem)

    def sum_up(self) -> None:
        """Log the number of records, if there were any."""
        if self.count:
            log.warning("%s: %d %s could not be used and were left out", self.source, self.count, self.records)
