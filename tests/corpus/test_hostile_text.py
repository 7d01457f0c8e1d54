"""Text that was made to do harm: no exception, no more time than in proportion to its length, no markup left."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minillm.corpus import Cleaner, DuplicateFilter, QualityFilter
from minillm.corpus.wikitext import holes, is_disambiguation, is_redirect, plain_text
from minillm.data.augmentation import sentences

# Pieces of wikitext, HTML and of what the steps of cleaning look for: strung together they nest and close anything.
PIECES = [
    *(
        "{{",
        "}}",
        "{",
        "}",
        "{{{",
        "}}}",
        "{|\n",
        "\n|}",
        "|",
        "[[",
        "]]",
        "[",
        "]",
        "''",
        "'''",
        "'",
        "=",
        "==",
        "\n",
        " ",
    ),
    *(
        "<ref>",
        "</ref>",
        "<b>",
        "</b>",
        "<a href=",
        ">",
        "<br/>",
        "<!--",
        "-->",
        "<nowiki>",
        "</nowiki>",
        "<pre>",
        "</pre>",
    ),
    *(
        "<math>",
        "</math>",
        "<table>",
        "</table>",
        "<nowiki/>",
        "\n== Notas ==\n",
        "\n* ",
        "\n:",
        "(",
        ")",
        ",",
        ";",
        ".",
    ),
    *(
        "&amp;",
        "&lt;",
        "&#91;",
        "&#xE000;",
        "&#xFDD0;0&#xFDD1;",
        "amp;",
        "\ufdd0",
        "\ufdd17\ufdd1",
        "\ue0000\ue001",
        "__TOC__",
    ),
    *(
        "nobr|",
        "fecha|12|",
        "fecha|",
        "²|",
        "convertir|5|a|",
        "cita|",
        "#if:a|",
        "formatnum:",
        "Categoría:",
        "de ",
        "uno",
    ),
    *(
        "http://a.es",
        "www.",
        "//",
        "1.234",
        "1,5",
        "12/03/1998",
        "1 de mayo",
        "–",
        "--",
        "“",
        "’",
        "Ã³",
        "\u0301",
        "\x93",
    ),
]
anything = st.text() | st.text(st.characters()) | st.lists(st.sampled_from(PIECES) | st.text(max_size=3)).map("".join)
everything = Cleaner(dates=True, numbers=True)
MARKUP = re.compile(
    r"<!--.*?-->|</?(?:b|i|small|br|ref)>|\[\[[^\[\]]*\]\]|\{\{[^{}]*\}\}|^\*+[ \t]|__TOC__|&amp;", re.S | re.M
)


@given(anything)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_text_raises_and_clean_text_is_free_of_markup_and_stays_as_it_is(text: str) -> None:
    for cleaner in Cleaner(), everything:
        clean, removed = cleaner.clean(text)
        assert sum(removed.values()) == len(text) - len(clean)
        assert cleaner.clean(clean)[0] == clean
        assert not MARKUP.search(clean)
        assert clean.encode().decode() == clean
    assert QualityFilter().reason("Título", text, clean) in (None, "redirect", "disambiguation", "list", "not Spanish")
    DuplicateFilter().sketch(clean)
    assert "".join(sentence + between for sentence, between in sentences(text)) == text


@given(anything)
@example("|{{}")  # what is left when the braces go is a pair again
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_wikitext_raises_and_no_bracket_of_it_is_left(source: str) -> None:
    text = plain_text(source)
    if "<nowiki" not in source and "<pre" not in source:
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}", text)
    assert isinstance(is_redirect(source), bool)
    assert isinstance(is_disambiguation(source), bool)
    assert holes(text) >= 0


@given(st.text(), st.text(st.sampled_from("\ue000\ue001\ufdd0\ufdd10123 ")))
@settings(deadline=None, derandomize=True)
def test_what_stands_in_a_nowiki_comes_out_as_it_is(word: str, marks: str) -> None:
    word = "".join(filter(str.isalnum, word))
    assert plain_text(f"{marks}a <nowiki>{{{{{word}}}}}</nowiki> z").endswith(f"a {{{{{word}}}}} z")


LONG = "1" * 5000
DIGITS = {
    f"{{{{lang-{LONG}|a}}}}": "",
    "{{fecha|12|²|1492}}": "12 de ² de 1492",
    f"{{{{fecha|12|{LONG}|1492}}}}": f"12 de {LONG} de 1492",
    "{{fecha|12|012|1492}}": "12 de diciembre de 1492",
    "{{siglo|²|a|s}}": "siglo ² a. C.",
}


@pytest.mark.parametrize("source", DIGITS)
def test_figures_that_are_no_numbers_and_numbers_without_end_are_text(source: str) -> None:
    assert plain_text(source) == DIGITS[source]


def test_numbers_of_any_length_are_written_in_groups() -> None:
    assert everything.clean("1" + ".234" * 3000)[0] == "1" + " 234" * 3000
    assert everything.clean(f"{LONG}, {LONG}.5")[0] == f"{LONG}, {LONG}.5"
    assert everything.clean("٣٣٣.٣٣٣.٣٣٣")[0] == "333 333 333"


@pytest.mark.parametrize(
    "source", ["{{nobr|", "{{a|", "[[a|", "{{{a|", "{|\n", "<b>", "''a", "(", "{{#if:a|", "<nowiki>"]
)
def test_no_nesting_is_too_deep(source: str) -> None:
    closing = {"{{": "}}", "[[": "]]", "{{{": "}}}", "{|\n": "\n|}", "<b>": "</b>", "''": "''", "(": ")"}
    end = next((closing[sign] for sign in sorted(closing, key=len, reverse=True) if source.startswith(sign)), "")
    text = source * 3000 + "uno" + end * 3000
    clean = Cleaner().clean(text)[0]
    assert Cleaner().clean(clean)[0] == clean
    assert "[[" not in plain_text(text).replace("<nowiki>", "")


def repeated(unit: str) -> Callable[[int], str]:
    return lambda length: unit * (length // len(unit))


def after(start: str, unit: str, end: str = "") -> Callable[[int], str]:
    return lambda length: start + unit * (length // len(unit)) + end


def nested(opening: str, closing: str) -> Callable[[int], str]:
    return lambda length: (
        opening * (length // len(opening + closing)) + "x" + closing * (length // len(opening + closing))
    )


FAMILIES = {
    "a link's address without end": after("[//", "a"),
    "a heading, then spaces": after("== a", " "),
    "an empty pair, then spaces": after("()", " "),
    "an attribute, then spaces": after("<a href=", " "),
    **{
        f"{tag} never closed": repeated(f"{tag}a") for tag in ("<ref>", "<!--", "<math>", "<nowiki>", "<table>", "{|\n")
    },
    **{
        f"{sign} nested": nested(sign, end)
        for sign, end in (("{{", "}}"), ("{{{", "}}}"), ("[[a|", "]]"), ("{|\n", "\n|}"))
    },
    "calls of templates nested": nested("{{nobr|", "}}"),
    "emphasis never closed": repeated("''a "),
    "emphasis across": nested("''a '''b ", " c''' d''"),
    "ampersands escaped over and over": after("&", "amp;"),
    "entities within entities": nested("&#4", "9;"),
    "figures and points": repeated("1.1"),
    "tags in a call": after("{{nobr|", "<b>", "}}"),
    "quoted tags in a call": after("{{nobr|", '<b a="', "}}"),
    "links in a call": after("{{nobr|", "[[a|b", "}}"),
    "arguments without end": after("{{convertir|5", "|-|5", "}}"),
    "marks on one letter": after("a", "\u0301\u0316"),
    "reference marks": after("[1", ",1"),
    "pairs nested": nested("([", "])"),
    "tags nested": nested("<b", ">"),
    "pairs and tags nested": nested("(<b ", ")>"),
    "damaged letters": repeated("Ã³"),
    "points": repeated("..."),
    "addresses": repeated("http://a(b"),
    "empty lines": repeated("\n"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_time_grows_with_the_text_and_not_with_its_square(family: str) -> None:
    def seconds(length: int) -> float:
        source = FAMILIES[family](length)
        start = time.process_time()
        text = plain_text(source)
        clean = everything.clean(source)[0]
        sentences(source)
        QualityFilter(language=None).reason("Título", source, text)
        DuplicateFilter().sketch(clean)
        return time.process_time() - start

    seconds(600)
    short, long = seconds(6_000), seconds(96_000)
    assert long < 5  # seconds: no page holds up a dump for longer
    assert long < 64 * max(short, 0.01)  # 16 times the text; its square would take 256 times
