"""HTML of a model's answers; text of visitors and models is always escaped."""

import math
import shlex
import unicodedata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from minillm.command import spelled
from minillm.inspection.page.asking import Draft, Place, Reading, Subject
from minillm.inspection.page.labels import Labels
from minillm.language_model import LanguageModel
from minillm.tokenization import EOS

MOST_BITS = 16.0  # the darkest colour
LEGEND = (0, 2, 4, 8, 12, 16)
MARKS = {"fault": "✗", "weak": "!", "fine": "✓", "none": "–"}
# Invisible characters, and those that change the direction of text.
UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
# Gradio treats a component's content as a template; these characters begin its expressions.
BRACES = {ord("{"): "&#123;", ord("}"): "&#125;", ord("$"): "&#36;"}

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("minillm.inspection.page"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def visible(text: str, in_lines: bool = False) -> Markup:
    r"""Return a text with a sign for each invisible character.

    Args:
        text: any.
        in_lines: whether line breaks stay.

    >>> str(visible("a\tb\n<i>\u202e\x00")), str(visible("a\nb", in_lines=True))
    ('a⇥b↵&lt;i&gt;U+202EU+0000', 'a↵\nb')
    """
    signs = {"\n": "↵\n" if in_lines else "↵", "\t": "⇥\t" if in_lines else "⇥"}
    return escape("".join(signs.get(each) or (_sign(each) if not each.isprintable() else each) for each in text))


def _sign(character: str) -> str:
    return f"U+{ord(character):04X}" if unicodedata.category(character) in UNSEEN else character


class Renderer:
    """Makes the parts of the page in one language.

    Args:
        labels: its words.
        text_language: of the models' text, such as "es".
    """

    def __init__(self, labels: Labels, text_language: str) -> None:
        self.labels, self.text_language = labels, text_language

    def percent(self, share: float) -> str:
        """Return a share as a percentage, in the language's number format."""
        digits = 1 if share >= 0.001 or share == 0 else 4
        return self._in_digits(f"{100 * share:.{digits}f}") + " %"

    def count(self, number: int) -> str:
        """Return a whole number, in the language's number format."""
        return f"{number:,}".replace(",", "." if self.labels.language == "es" else ",")

    def message(self, text: str, alert: bool = False) -> str:
        """Return a sentence that screen readers announce at once."""
        return self._part("message", text=text, alert=alert)

    def head(self, subjects: list[Subject], other: Labels) -> str:
        """Return the page's beginning."""
        language = other.language
        return self._part("head", subjects=subjects, other_language=language, other_page=f"../{language}/")

    def written(self, draft: Draft, busy: bool) -> str:
        """Return a generated text, each token a button.

        Args:
            draft: the text.
            busy: whether more tokens follow.
        """
        return self._part("written", draft=draft, busy=busy)

    def alternatives(self, draft: Draft, place: int) -> str:
        """Return a token's candidates as buttons."""
        return self._part("alternatives", step=draft.steps[place], place=place)

    def speed(self, tokens: int, seconds: float, first: float) -> str:
        """Return the speed of writing.

        Args:
            tokens: their number.
            seconds: of writing them.
            first: seconds until the first token.
        """
        return self.labels.written.format(
            tokens=tokens,
            seconds=self._in_digits(f"{seconds:.1f}"),
            speed=f"{tokens / max(seconds, 1e-9):.0f}",
            first=f"{1000 * first:.0f}",
        )

    def readings(self, readings: list[tuple[Subject, Reading]]) -> str:
        """Return models' readings of a text, side by side.

        Args:
            readings: models, each with its reading.
        """
        names = {"unigram": self.labels.unigram, "bigram": self.labels.bigram}
        shown = [
            {
                "name": subject.name,
                "verdict": subject.verdict,
                "places": [(place, self._details(place)) for place in reading.places],
                "figures": [
                    (names.get(which, subject.name), self._in_digits(f"{figure:.3f}"))
                    for which, figure in reading.bits_per_byte.items()
                ],
            }
            for subject, reading in readings
        ]
        return self._part("readings", readings=shown)

    def heat(self, tokens: list[str], weights: Any, layer: int, head: int) -> str:
        """Return a head's attention as a table.

        Args:
            tokens: T tokens, [BOS] first.
            weights: (T, T), one row per query.
            layer: from 1 on.
            head: from 1 on.
        """
        ahead = sum(weight for number, row in enumerate(weights) for weight in row[number + 1 :]) / len(weights)
        named = [self.labels.first_token, *(visible(token.strip() or token) for token in tokens[1:])]
        return self._part("heat", tokens=named, weights=weights, layer=layer, head=head, ahead=ahead)

    def audit(self, subjects: list[Subject]) -> str:
        """Return the models' audits."""
        return self._part("audit", subjects=subjects)

    def _details(self, place: Place) -> str:
        """Return a sentence with all figures of a token."""
        token = visible(_apart(place.surface)[1]).unescape() or self.labels.end_of_article
        return self.labels.details.format(
            token=f"{token} ({self.labels.unknown})" if place.unknown else token,
            bits=self._in_digits(f"{place.bits:.1f}"),
            rank=place.rank,
            probability=self.percent(place.probability),
            alternatives=" · ".join(
                f"{_alone(alternative)} {self.percent(share)}" for alternative, share in place.alternatives
            ),
        )

    def _named(self, token_id: int, token: str) -> str:
        """Return a token's name."""
        return self.labels.end_of_article if token_id == EOS else _alone(token)

    def _about(self, model: LanguageModel) -> str:
        """Return a short description of a model."""
        labels, network = self.labels, model.network
        parameters = self.count(sum(parameter.numel() for parameter in network.parameters()))
        about = labels.about.format(
            network=type(network).__name__,
            parameters=parameters,
            kind=labels.kinds.get(model.tokenizer.kind, model.tokenizer.kind),
            size=self.count(len(model.tokenizer)),
        )
        return about + labels.context.format(tokens=self.count(model.max_length))

    def _in_digits(self, figure: str) -> str:
        return figure.replace(".", ",") if self.labels.language == "es" else figure

    def _part(self, part: str, **values: Any) -> str:
        html = _templates.get_template("fragments.html.jinja").render(
            part=part,
            labels=self.labels,
            text_language=self.text_language,
            apart=_apart,
            legend=LEGEND,
            marks=MARKS,
            bits=_bits,
            share=_share,
            percent=self.percent,
            named=self._named,
            about=self._about,
            to_evaluate=_to_evaluate,
            report_at=lambda number: f"../report/{number}",
            **values,
        )
        return html.translate(BRACES)


_templates.filters["visible"] = visible


def _apart(piece: str) -> tuple[str, str]:
    """Return a token's leading space, where a line may break, and the rest."""
    own = piece.lstrip(" ") or piece
    return piece[: len(piece) - len(own)], own


def _alone(token: str) -> str:
    """Return a token shown alone, with a visible sign for its space: with and without it, it is another token."""
    gap, own = _apart(token)
    return "␣" * len(gap) + visible(own).unescape().replace(" ", "␣")


def _to_evaluate(checkpoint: Path) -> str:
    said = [f"ckpt={checkpoint}", f"paths.output_dir={checkpoint.parent.parent}"]
    return " ".join([spelled("evaluate"), *map(shlex.quote, said)])


def _bits(probability: float) -> float:
    return -math.log2(max(probability, 2**-MOST_BITS))


def _share(bits: float) -> str:
    """Return a token's darkness, 0 to 100."""
    return f"{100 * min(bits, MOST_BITS) / MOST_BITS:.0f}"
