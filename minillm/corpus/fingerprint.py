"""Fingerprints: short names for everything that a cached result depends on."""

import hashlib
import json
import re
from typing import Any


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a JSON-able value; the order of keys does not matter.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_fingerprint(value: object) -> bool:
    """Return whether a value looks like what `fingerprint` returns: safe as a folder's name.

    >>> is_fingerprint(fingerprint({"a": 1})), is_fingerprint("../../etc")
    (True, False)
    """
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None
