"""Fingerprints: short names for everything that a cached result depends on."""

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of a JSON-able value; the order of keys does not matter.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
