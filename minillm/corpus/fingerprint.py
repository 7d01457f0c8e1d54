"""Fingerprints: short hashes of everything that a cached result depends on."""

import hashlib
import json
import re
import unicodedata
from importlib.metadata import version
from typing import Any

# Libraries whose version changes a stage's result. Not NumPy: its arithmetic and RandomState are the same in every
# version. "unicode" means Python's Unicode tables.
DECIDING = {
    "wikitext": ("unicode",),
    "cleaning": ("ftfy", "unicode"),
    "quality": ("py3langid", "unicode"),
    "duplicates": ("unicode",),
    "tokenizer": ("regex", "tokenizers"),
}


def fingerprint(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a JSON value; the order of keys does not matter.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def is_fingerprint(value: object) -> bool:
    """Return whether a value has the form of a fingerprint, and so is safe as a folder's name.

    >>> is_fingerprint(fingerprint({"a": 1})), is_fingerprint("../../etc")
    (True, False)
    """
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None


def libraries(*stages: str) -> dict[str, str]:
    """Return the versions of the libraries that determine the results of the stages.

    >>> sorted(libraries("cleaning", "quality"))
    ['ftfy', 'py3langid', 'unicode']
    """
    names = sorted({name for stage in stages for name in DECIDING[stage]})
    return {name: unicodedata.unidata_version if name == "unicode" else version(name) for name in names}
