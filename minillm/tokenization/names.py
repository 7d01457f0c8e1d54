"""Names of several words, such as "Nueva York", found by how often words are adjacent."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

# Capitalised words separated by one space, but not at the start of a sentence, where any word is capitalised.
CAPITALISED = r"[A-ZÀ-ÖØ-Þ][^\W\d_]*"
RUN = re.compile(rf"(?<=[a-zß-öø-ÿ,;] ){CAPITALISED}(?: {CAPITALISED})+")


def counting(texts: Iterable[str], runs: Counter[str]) -> Iterator[str]:
    """Yield the texts, and count the runs of capitalised words in them.

    Args:
        texts: the texts.
        runs: the counts to add to.
    """
    for text in texts:
        runs.update(RUN.findall(text))
        yield text


def frequent_names(runs: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Return the most frequent names, in descending order, each as the two parts that it consists of.

    This is byte-pair encoding (Sennrich et al. 2016) on words instead of bytes: the most frequent pair of adjacent
    parts is merged repeatedly, so "Segunda Guerra Mundial" is "Segunda" + "Guerra Mundial". A name occurs at least
    twice.

    >>> frequent_names(Counter({"Nueva York": 5, "Segunda Guerra Mundial": 3, "Guerra Mundial": 4, "Don Juan": 1}), 9)
    [('Guerra', 'Mundial'), ('Nueva', 'York'), ('Segunda', 'Guerra Mundial')]

    Args:
        runs: counts of runs of capitalised words.
        limit: maximum number of names.
    """
    parts = {run: run.split(" ") for run in runs}
    together: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[str]] = {}
    for run in parts:
        _count(run, parts[run], runs[run], together, where)
    names: list[tuple[str, str]] = []
    while len(names) < limit and together:
        pair = min(together, key=lambda pair: (-together[pair], pair))  # ties by code point
        if together[pair] < 2:
            break
        names.append(pair)
        for run in where.pop(pair):
            _count(run, parts[run], -runs[run], together, where)
            parts[run] = _joined(parts[run], pair)
            _count(run, parts[run], runs[run], together, where)
        del together[pair]
    return names


def _count(
    run: str,
    parts: list[str],
    times: int,
    together: Counter[tuple[str, str]],
    where: dict[tuple[str, str], set[str]],
) -> None:
    for pair in pairwise(parts):
        together[pair] += times
        where.setdefault(pair, set()).add(run)


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] = f"{joined[-1]} {part}"
        else:
            joined.append(part)
    return joined
