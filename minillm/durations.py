"""Durations as text."""

import re
from datetime import timedelta

UNITS = {"d": "days", "h": "hours", "min": "minutes", "m": "minutes", "s": "seconds"}


def parse_duration(text: str) -> timedelta:
    """Parse a duration: ``DD:HH:MM:SS``, or numbers with units: d, h, min (or m), s.

    >>> str(parse_duration("00:01:30:00")), str(parse_duration("1h30min")), str(parse_duration("1.5 h"))
    ('1:30:00', '1:30:00', '1:30:00')

    Raises:
        ValueError: the text is not a duration.
    """
    try:
        if clock := re.fullmatch(r"\s*(\d+):(\d\d):(\d\d):(\d\d)\s*", text, re.ASCII):
            days, hours, minutes, seconds = map(int, clock.groups())
            return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        part = r"\s*(\d+(?:\.\d+)?)\s*(d|h|min|m|s)"
        if re.fullmatch(rf"(?:{part})+\s*", text, re.ASCII):
            parts = re.findall(part, text, re.ASCII)
            return sum((timedelta(**{UNITS[unit]: float(number)}) for number, unit in parts), timedelta())
    except OverflowError:
        pass
    raise ValueError(f"{text!r} is not a duration")
