"""Names of several words, such as "Nueva York": found by how often words stand together."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

# Capitalised words with one space between. Counted where the first one does not open a sentence: there any word is
# capitalised.
CAPITALISED = r"[A-ZÀ-ÖØ-Þ][^\W\d_]*"
RUN = re.compile(rf"(?<=[a-zß-öø-ÿ,;] ){CAPITALISED}(?: {CAPITALISED})+")


def counting(texts: Iterable[str], runs: Counter[str]) -> Iterator[str]:
    """Yield the texts as they are; count the runs of capitalised words in them on the way.

    Args:
        texts: what to read.
        runs: the counts; added to.
    """
    for text in texts:
        runs.update(RUN.findall(text))
        yield text


def frequent_names(runs: Counter[str], limit: int) -> list[tuple[str, str]]:
    """Return the most frequent names, each as the two parts that it is put together from, the most frequent first.

    Byte-pair encoding (Sennrich et al. 2016) with words for bytes: the two neighbours that stand together most often
    become one, over and over, so that "Segunda Guerra Mundial" is "Segunda" + "Guerra Mundial". What occurs once is no
    name.

    >>> frequent_names(Counter({"Nueva York": 5, "Segunda Guerra Mundial": 3, "Guerra Mundial": 4, "Don Juan": 1}), 9)
    [('Guerra', 'Mundial'), ('Nueva', 'York'), ('Segunda', 'Guerra Mundial')]

    Args:
        runs: runs of capitalised words and how often each occurs.
        limit: names at most.
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
