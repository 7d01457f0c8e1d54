"""How fast does a model write: the project beside transformers' ``generate``, greedily, in float32."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, cast

from matplotlib.axes import Axes
from rich.console import Console

from minillm.benchmarking.benchmark import Contestant, Outcome, Session
from minillm.benchmarking.display import bars, shown, table
from minillm.benchmarking.ours import sizes_of
from minillm.benchmarking.schema import Decoded, Decoding, Skipped
from minillm.benchmarking.statistics import ratio, spread
from minillm.benchmarking.training import show_skipped
from minillm.errors import SettingError
from minillm.tokenization import BOS

OURS, PEER = "minillm", "transformers"


@dataclass(frozen=True)
class DecodingSpeed:
    """Continues the beginnings of test articles, one and many at once.

    The project's time has the way from text to ids and back in it, the peer's begins and ends with ids. Both have
    random weights, and write on to the last token.

    Args:
        prompts: how many at once; each number is measured. 1 is always among them.
        new_tokens: tokens after each prompt.

    Raises:
        SettingError: a number under 1, or too few tokens to take a difference.
    """

    prompts: Sequence[int] = (1, 8, 64)
    new_tokens: int = 64

    def __post_init__(self) -> None:
        if min(self.prompts, default=0) < 1:
            raise SettingError("prompts", list(self.prompts), "must be numbers from 1 on, such as [1, 8, 64]")
        if self.new_tokens < 2:
            raise SettingError("new_tokens", self.new_tokens, "must be at least 2, such as 64")

    def measure(self, session: Session) -> Decoding:
        """Return the times of both."""
        settings = session.settings()
        tokenizer = session.data.tokenizer
        context = settings["data"]["max_length"]
        longest = context - self.new_tokens
        if longest < 4:
            advice = f"leaves no room for prompts in data.max_length={context}; {context // 2} would do"
            raise SettingError("benchmark.decoding.new_tokens", self.new_tokens, advice)
        texts = _beginnings(session, sorted({1, *self.prompts}), longest)
        ids = {number: [[BOS, *tokenizer.encode(text)] for text in several] for number, several in texts.items()}
        shared = {"new_tokens": self.new_tokens, "device": session.device}
        own = {"settings": settings, "tokenizer": session.tokenizer, "prompts": texts}
        sizes = asdict(sizes_of(settings, len(tokenizer)))
        peer = {"library": PEER, "sizes": sizes, "prompts": ids}
        outcomes = session.compete(
            {
                OURS: Contestant("minillm.benchmarking.ours:decode", {**own, **shared}),
                PEER: Contestant("minillm.benchmarking.peers:decode", {**peer, **shared}),
            },
            [{"what": what} for what in ("forward", "token", *texts)],
        )
        contestants = {name: self._decoded(outcome, list(texts)) for name, outcome in outcomes.items()}
        both = all("skipped" not in figures for figures in contestants.values())
        ours, theirs = (cast(Decoded, contestants[name]) for name in (OURS, PEER))
        return {
            "new_tokens": self.new_tokens,
            "prompt_tokens": {number: sum(map(len, several)) / len(several) for number, several in ids.items()},
            "contestants": contestants,
            "token_ratio": {PEER: ratio(ours["token_ms"], theirs["token_ms"])} if both else {},
            "speedup": {
                PEER: {
                    number: ratio(ours["tokens_per_second"][number], theirs["tokens_per_second"][number])
                    for number in texts
                }
            }
            if both
            else {},
        }

    def _decoded(self, outcome: Outcome, numbers: Sequence[str]) -> Decoded | Skipped:
        if outcome.skipped:
            return {"skipped": outcome.skipped}
        kinds = ["forward", "token", *numbers]
        taken = {
            kind: [turn["seconds"] for turn in outcome.turns[place :: len(kinds)]] for place, kind in enumerate(kinds)
        }
        return {
            "parameters": outcome.facts["parameters"],
            "forward_ms": spread([1000 * seconds for seconds in taken["forward"]]),
            "token_ms": spread([1000 * seconds for seconds in taken["token"]]),
            "tokens_per_second": {
                number: spread([int(number) * self.new_tokens / seconds for seconds in taken[number]])
                for number in numbers
            },
        }

    def show(self, figures: Decoding, console: Console) -> None:
        """Show the times of both."""
        title = f"Decoding: greedy, float32, {figures['new_tokens']} tokens each; tokens/s by prompts at once"
        numbers = list(figures["prompt_tokens"])
        made = table(title, "", "forward, ms", "token, ms", *numbers)
        for name, found in figures["contestants"].items():
            if "skipped" not in found:
                made.add_row(
                    name,
                    shown(found["forward_ms"], ".2f"),
                    shown(found["token_ms"], ".2f"),
                    *(shown(found["tokens_per_second"][number]) for number in numbers),
                )
        console.print(made)
        show_skipped(figures["contestants"], console)
        for name, token in figures["token_ratio"].items():
            many = ", ".join(f"{number}: x {found['median']:.2f}" for number, found in figures["speedup"][name].items())
            told = f"{token['median']:.2f} x that of {name}; its speed by number of prompts is {many}"
            console.print(f"The project's time of a cached token is {told}.", highlight=False)
        console.print()

    def panels(self, figures: Decoding) -> int:
        """Return 1."""
        return 1

    def draw(self, figures: Decoding, axes: Iterator[Axes]) -> None:
        """Draw the speeds."""
        speeds: dict[str, Any] = {
            f"{name}, {number}": found
            for number in figures["prompt_tokens"]
            for name, decoded in figures["contestants"].items()
            if "skipped" not in decoded
            for found in [decoded["tokens_per_second"][number]]
        }
        bars(next(axes), "decoding, tokens/s by prompts at once", speeds)


def _beginnings(session: Session, numbers: Sequence[int], longest: int) -> dict[str, list[str]]:
    """Return beginnings of articles, of lengths that run evenly up to the longest, by how many there are."""
    tokenizer = session.data.tokenizer
    texts = [
        row["text"] for split in ("test", "val", "train") for row in islice(session.data.corpus.articles(split), 64)
    ]
    found = {}
    for number in numbers:
        several = []
        for place in range(number):
            words = texts[place % len(texts)].split()
            most = 2 + (longest - 3) * (place + 1) // number if number > 1 else longest // 2
            kept = 1
            while kept < len(words) and len(tokenizer.encode(" ".join(words[: kept + 1]))) < most:
                kept += 1
            several.append(" ".join(words[:kept]))
        found[str(number)] = several
    return found
