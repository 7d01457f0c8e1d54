"""Fingerprints: short names for everything that a cached result depends on."""

import hashlib
import json
import re
import unicodedata
from importlib.metadata import version
from typing import Any

# What decides a stage's result beside its own code and settings. Not here is what gives the same in every version:
# numpy's arithmetic, and its RandomState, which is frozen. "unicode" stands for Python's own tables of characters.
DECIDING = {
    "wikitext": ("unicode",),
    "cleaning": ("ftfy", "unicode"),
    "quality": ("py3langid", "unicode"),
    "duplicates": ("unicode",),
    "tokenizer": ("regex", "tokenizers"),
}


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


def libraries(*stages: str) -> dict[str, str]:
    """Return the versions of the libraries that decide the results of the stages.

    >>> sorted(libraries("cleaning", "quality"))
    ['ftfy', 'py3langid', 'unicode']
    """
    names = sorted({name for stage in stages for name in DECIDING[stage]})
    return {name: unicodedata.unidata_version if name == "unicode" else version(name) for name in names}
