"""Wikitext to plain text.

Invisible markup (references, tables, files, categories, galleries) is removed. Templates are resolved from the inside
out; those with words, dates or quantities (see `TEMPLATES`) are replaced by them. Headings stay as ``== wikitext has
them ==``, and the cleaning chain decides about their sections. No page raises an exception, and time is linear in the
text (see `minillm.corpus.cleaning`). Known wikitext parsers guarantee neither, so template calls are parsed here.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from minillm.corpus.cleaning import (
    BARS,
    BRACES,
    BRACKETS,
    BULLETS,
    CLOSED_REF,
    TABLE,
    TEMPLATE,
    WIKI_LINK,
    comments,
    elements,
    html_entities,
    in_lines,
    markup,
    until_stable,
)

VERSION = 3  # raised when the same wikitext gets another result

HIDDEN = frozenset((
    "ref", "references", "gallery", "timeline", "table", "style", "script", "syntaxhighlight", "source", "score",
    "imagemap", "hiero", "graph", "chem", "ce", "section", "templatedata", "templatestyles", "categorytree",
    "inputbox", "mapframe", "maplink"
))  # fmt: skip
HIDDEN_ALONE = re.compile(r"<(?:references|section|templatestyles|mapframe|maplink)\b[^<>]*/?>", re.IGNORECASE)
NOWIKI_ALONE = re.compile(r"<nowiki\s*/>", re.IGNORECASE)
MARKS = "\ufdd0\ufdd1"  # around the number that stands for a nowiki: noncharacters, which no text contains
KEPT = re.compile(f"{MARKS[0]}(\\d+){MARKS[1]}")
NO_WORD = re.compile(r"\W+")
SIMPLE_FORMULA = re.compile(r"[\w\s+\-=<>/*^,.()!]+")  # readable without TeX
ARGUMENT = re.compile(r"\{\{\{[^{}|]*(?:\|([^{}]*))?\}\}\}")
LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?")
EMPHASIS = re.compile("'''?(?:'')?")
ITEM = re.compile(r"[:;]*+[*#][*#:;]*+[ \t]*+")  # at the beginning of a line, like INDENT
INDENT = re.compile(r"[:;]++[ \t]*+")
INDENTS = (":", ";")
RULE = re.compile(r"^-{4,}[ \t]*", re.MULTILINE)
BRACKET = re.compile(r"\[\[|\[(?=(?:[a-z]{2,6}:)?//|mailto:)|\]|<(/?+)([a-z][a-z0-9]*+)\b[^<>]*>", re.IGNORECASE)
UNPAIRED = ("br", "hr", "wbr", "img")
TITLE = re.compile(r"^=[^\n|]*+(?<==)$", re.MULTILINE)
PROPER_NAME = re.compile(r"[^<>\[\]{}\n]+")  # of a template
STRAY = re.compile(r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]")
DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:(?:plantilla|template)\s*:\s*)?(?:desambig\w*|disambig\w*|des|homonimia)\s*[|}]", re.I
)
DANGLING = (  # words after which a sentence cannot end
    *("a", "al", "ante", "con", "contra", "de", "del", "desde", "el", "en", "entre", "hacia", "hasta", "la", "las"),
    *(
        "los",
        "o",
        "para",
        "por",
        "según",
        "sin",
        "sobre",
        "su",
        "tras",
        "un",
        "una",
        "unos",
        "unas",
        "y",
        "aproximadamente",
    ),
    *("mide", "pesa"),
)
LONGEST_DANGLING = max(map(len, DANGLING))
HOLE = re.compile(rf"\b(?:{'|'.join(DANGLING)})\s*(?=[.,;:)]|$)(?!\.\s?C\.)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Dialect:
    """A wiki's own names for files, categories and redirects, in lower case.

    Args:
        hidden: prefixes of links that show no text: to files and categories.
        categories: the prefixes of categories.
        redirects: words that redirects begin with.
    """

    hidden: frozenset[str] = frozenset(
        ("archivo", "imagen", "categoría", "categoria", "file", "image", "category", "media", "medio")
    )
    categories: frozenset[str] = frozenset(("categoría", "categoria", "category"))
    redirects: tuple[str, ...] = ("#redirección", "#redireccion", "#redirect")

    @classmethod
    def of_namespaces(cls, names: Iterable[tuple[int, str]], redirects: Iterable[str] = ()) -> Self:
        """Return the dialect of a wiki by its namespaces; Spanish and English names are always included.

        Args:
            names: numbers and names of the namespaces, aliases included.
            redirects: words that redirects begin with.
        """
        names = [(number, name.replace("_", " ").casefold()) for number, name in names]
        return cls(
            cls.hidden | {name for number, name in names if number in (-2, 6, 14)},
            cls.categories | {name for number, name in names if number == 14},
            (*cls.redirects, *(word.casefold() for word in redirects)),
        )

    @classmethod
    def of_siteinfo(cls, site: dict[str, Any]) -> Self:
        """Return the dialect of a wiki by its API's ``namespaces``, ``namespacealiases`` and ``redirect``."""
        spaces = site["namespaces"].values()
        names = [(space["id"], space[key]) for space in spaces for key in ("name", "canonical") if key in space]
        names += [(space["id"], space["alias"]) for space in site["namespacealiases"]]
        return cls.of_namespaces(names, site["redirect"])


SPANISH = Dialect()


def is_redirect(source: str, dialect: Dialect = SPANISH) -> bool:
    """Return whether a page is a redirect.

    >>> is_redirect("#REDIRECCIÓN [[Lima]]")
    True
    """
    return source.lstrip()[:40].casefold().replace("# ", "#").startswith(dialect.redirects)


def is_disambiguation(source: str) -> bool:
    """Return whether a page has a disambiguation template.

    >>> is_disambiguation("'''Mercurio''' es un planeta o un metal.\\n{{desambiguación}}")
    True
    """
    return DISAMBIGUATION.search(source) is not None


def plain_text(source: str, dialect: Dialect = SPANISH) -> str:
    """Return the visible prose of a page.

    Args:
        source: the page's wikitext.
        dialect: its wiki's names.

    >>> plain_text("'''Lima'''<ref>INEI</ref> dista {{convertir|5|km}} del [[Pacífico|mar]].[[Archivo:a.jpg|El [[b]]]]")
    'Lima dista 5 km del mar.'
    """
    kept: list[str] = []
    text = comments(source)
    if "<nowiki" in text or "<pre" in text:

        def keep(content: str) -> str:
            kept.append(content)
            return f"{MARKS[0]}{len(kept) - 1}{MARKS[1]}"

        text = elements(frozenset(("nowiki", "pre")), keep, re.sub(f"[{MARKS}]", "", text))
        text = NOWIKI_ALONE.sub(lambda _: keep(""), text)
    text = EMPHASIS.sub("", text)
    if "<" in text:
        text = CLOSED_REF.sub("", elements(frozenset(("math",)), _formula, text))
        text = HIDDEN_ALONE.sub("", elements(HIDDEN, lambda content: "", text))
    if "{{{" in text:
        text = until_stable(ARGUMENT, lambda match: match[1] or "", BRACES, text)
    if "{{" in text:
        text = until_stable(TEMPLATE, _template, BRACES, text)
    if "{|" in text:
        text = until_stable(TABLE, "", BARS, text)
    if "[[" in text:
        text = until_stable(WIKI_LINK, lambda match: _link(match[1], dialect), BRACKETS, text)
    if "*" in text or "#" in text:
        text = in_lines(ITEM, "* ", BULLETS, text)
    text = markup(html_entities(in_lines(INDENT, "", INDENTS, text)))
    if "-" in text and "----" in text:
        text = RULE.sub("", text)
    if any(sign in text for sign in "{}[]"):
        text = STRAY.sub("", text)
        if STRAY.search(text):
            text = _without_pairs(text)
    return KEPT.sub(lambda match: kept[int(match[1])], text).strip() if kept else text.strip()


def _without_pairs(text: str) -> str:
    """Remove stray brackets, also those that meet because others between them were removed.

    >>> _without_pairs("a |{{} b")
    'a  b'
    """
    kept: list[str] = []
    for character in text:
        if kept and STRAY.fullmatch(kept[-1] + character):
            kept.pop()
        else:
            kept.append(character)
    return "".join(kept)


def holes(text: str) -> int:
    """Return how many sentences of a clean text have a hole where something was removed, as far as words show.

    >>> holes("Tiene una superficie de . Vive en el mar. Nació en , hijo de un herrero.")
    2
    """
    return len(HOLE.findall(text))


def _formula(content: str) -> str:
    formula = content.strip()
    return formula if SIMPLE_FORMULA.fullmatch(formula) else ""


def _link(link: str, dialect: Dialect) -> str:
    """Return the visible text of a link."""
    target, pipe, label = link.partition("|")
    prefix, colon, _ = target.partition(":")
    if colon and prefix and (prefix.strip().casefold() in dialect.hidden or LANGUAGE_LINK.fullmatch(prefix)):
        return ""
    return (label.rpartition("|")[2] if pipe else target.removeprefix(":")).strip("\n")


# Templates


@dataclass(frozen=True)
class Call:
    """A call of a template: its positional and named arguments, stripped."""

    arguments: tuple[str, ...]
    named: dict[str, str]

    def __getitem__(self, position: int) -> str:
        """Return an argument by position, from 0; empty where there is none."""
        return self.arguments[position] if position < len(self.arguments) else ""


def _template(match: re.Match[str]) -> str:
    """Return the words of a template call that contains no other calls."""
    call = match[0]
    name = call[2:-2].partition("|")[0]
    name = _name(name) if len(name) < 200 else _name.__wrapped__(name)  # not cached: so long a name hardly repeats
    if (colon := name.find(":")) > 0:
        return _function(name[:colon], call[2:-2].partition(":")[2])
    if rule := TEMPLATES.get(name):
        return _shown(call, rule)
    # An unknown template shows its first argument where the sentence would have a hole without it.
    before = match.string[max(0, match.start() - 30) : match.start()].rstrip()
    if before[-1:].isalpha() and "\n" not in call:
        last_word = NO_WORD.split(before[-LONGEST_DANGLING - 1 :])[-1]
        if last_word.lower() in DANGLING:
            return _shown(call, first)
    return ""


def _shown(call: str, rule: Callable[[Call], str]) -> str:
    text = call[2:-2]
    masked = _masked(text) if "[" in text or "<" in text else text
    if "\n=" in masked:
        masked = TITLE.sub(lambda title: " " * len(title[0]), masked)
    pieces = masked.split("|")
    place = len(pieces[0])
    if not PROPER_NAME.fullmatch(text[:place].strip()):
        return ""
    positional, named = [], {}
    for piece in pieces[1:]:
        start, place = place + 1, place + 1 + len(piece)
        sign = piece.find("=")
        if sign < 0:
            positional.append(text[start:place].strip())
        else:
            named[text[start : start + sign].strip()] = text[start + sign + 1 : place].strip()
    numbered = [named.pop(number) for number in "123456789" if number in named]
    return rule(Call((*positional, *numbered), named))


def _masked(text: str) -> str:
    """Return a text of the same length with blanks for links and elements: their pipes separate no arguments."""
    spans: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []  # kind and place of each open bracket
    waiting: Counter[str] = Counter()  # open brackets by kind
    done = 0

    def close(what: str, end: int) -> None:
        start, found = 0, ""
        while found != what:  # an inner bracket that is never closed is no markup
            found, start = opened.pop()
            waiting[found] -= 1
        while spans and spans[-1][0] > start:
            spans.pop()
        spans.append((start, end))

    for sign in BRACKET.finditer(text):
        what, (start, end) = (sign[2] or sign[0]).lower(), sign.span()
        if start < done:
            continue
        if what == "]":
            if waiting["["]:
                close("[", end)
            elif waiting["[["] and text.startswith("]", end):
                close("[[", done := end + 1)
        elif sign[1]:
            if waiting[what]:
                close(what, end)
        elif what in UNPAIRED or sign[0].endswith("/>"):
            spans.append((start, end))
        else:
            opened.append((what, start))
            waiting[what] += 1
    pieces: list[str] = []
    place = 0
    for start, end in spans:
        pieces += text[place:start], " " * (end - start)
        place = end
    return "".join((*pieces, text[place:]))


@lru_cache(maxsize=4096)
def _name(name: str) -> str:
    name = " ".join(name.replace("_", " ").split()).casefold()
    for prefix in ("plantilla:", "template:", "subst:", "msg:"):
        name = name.removeprefix(prefix).strip()
    return name


def _function(name: str, argument: str) -> str:
    """Return the text of a parser function; nothing for those that depend on the page or the date."""
    if name in ("formatnum", "uc", "lc", "ucfirst", "lcfirst"):
        text = argument.partition("|")[0].strip()
        change = {"uc": text.upper(), "lc": text.lower(), "ucfirst": text[:1].upper() + text[1:]}
        return change.get(name, text)
    if name == "#if":  # the branch that the condition selects
        condition, _, rest = argument.partition("|")
        yes, _, no = rest.partition("|")
        return (yes if condition.strip() else no).strip()
    return ""


def first(call: Call) -> str:
    """Return the first argument."""
    return call[0]


def second(call: Call) -> str:
    """Return the second argument, or the only one."""
    return call[1] or call[0]


def last(call: Call) -> str:
    """Return the last argument."""
    return call.arguments[-1] if call.arguments else ""


def quotation(call: Call) -> str:
    """Return a quotation as a paragraph of its own."""
    return f"\n{call[0] or call.named.get('texto', '')}\n"


UNITS = {
    "km2": "km²",
    "m2": "m²",
    "cm2": "cm²",
    "mi2": "mi²",
    "m3": "m³",
    "km3": "km³",
    "cm3": "cm³",
    "C": "°C",
    "F": "°F",
}
BETWEEN = {"-": "-", "–": "-", "a": " a ", "to": " a ", "y": " y ", "and": " y ", "e": " e ", "o": " o ", "or": " o "}
BETWEEN |= {"por": " por ", "x": " por ", "by": " por ", "+/-": " ± ", "±": " ± "}


def quantity(call: Call) -> str:
    """Return a quantity with its unit, as given: {{convertir|5|a|7|km|mi}} is 5 a 7 km."""
    numbers, place = [call[0]], 1
    while len(call.arguments) > place + 2 and (sign := BETWEEN.get(call[place])):
        numbers += sign, call[place + 1]
        place += 2
    unit = UNITS.get(call[place], call[place])
    return f"{''.join(numbers)} {unit}".strip()


MONTHS = (
    *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
    *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
)


def date(call: Call) -> str:
    """Return a date in words: {{fecha|12|10|1492}} is 12 de octubre de 1492; the year may come first."""
    parts = [part for part in call.arguments[:3] if part]
    if parts and len(parts[0]) > 2 and parts[0].isdigit():
        parts.reverse()
    if len(parts) > 1 and len(parts[-2]) < 10 and parts[-2].isdecimal() and 1 <= int(parts[-2]) <= 12:
        parts[-2] = MONTHS[int(parts[-2]) - 1]
    return " de ".join(parts)


def century(call: Call) -> str:
    """Return a century: {{siglo|V|a|s}} is siglo V a. C."""
    era = {"a": " a. C.", "d": " d. C."}.get(call[1].lower(), "")
    word = {"s": "siglo ", "S": "Siglo "}.get(call[2], "")
    return f"{word}{call[0]}{era}"


def before_christ(call: Call) -> str:
    """Return {{AC|331}}: 331 a. C."""
    return f"{call[0]} a. C.".strip()


def after_christ(call: Call) -> str:
    """Return {{DC|331}}: 331 d. C."""
    return f"{call[0]} d. C.".strip()


def fraction(call: Call) -> str:
    """Return {{frac|1|2}}: 1/2, and {{frac|3|1|2}}: 3 1/2."""
    *whole, over, under = call.arguments[:3] if len(call.arguments) > 1 else ("1", call[0])
    return " ".join((*whole, f"{over}/{under}"))


def japanese(call: Call) -> str:
    """Return {{nihongo|Tokio|東京|Tōkyō}}: Tokio (東京 Tōkyō)."""
    original = " ".join(part for part in call.arguments[1:3] if part)
    return f"{call[0]} ({original})" if call[0] and original else call[0] or original


def coordinated(call: Call) -> str:
    """Return arguments as an enumeration: {{lista|uno|dos|tres}} is uno, dos, tres."""
    return ", ".join(argument for argument in call.arguments if argument)


def _in_language(name: str) -> Callable[[Call], str]:
    return lambda call: f"en {name} {call[0]}" if call[0] else ""


LANGUAGES = {
    "ar": "árabe", "ca": "catalán", "de": "alemán", "el": "griego", "en": "inglés", "eo": "esperanto", "eu": "euskera",
    "fr": "francés", "gl": "gallego", "grc": "griego antiguo", "he": "hebreo", "it": "italiano", "ja": "japonés",
    "ko": "coreano", "la": "latín", "nah": "náhuatl", "nl": "neerlandés", "pl": "polaco", "pt": "portugués",
    "qu": "quechua", "ro": "rumano", "ru": "ruso", "sv": "sueco", "tr": "turco", "uk": "ucraniano", "zh": "chino",
}  # fmt: skip

# The templates with words, dates or quantities, and the text of each.
TEMPLATES: dict[str, Callable[[Call], str]] = {
    **dict.fromkeys(("convertir", "convert", "unidad", "unidades", "val", "conv"), quantity),
    **dict.fromkeys(("fecha", "date", "fecha de inicio", "fecha de nacimiento", "fecha de fallecimiento"), date),
    **dict.fromkeys(("lang", "idioma", "lang2", "color", "fontcolor", "transl", "transliteración"), last),
    **{f"lang-{code}": _in_language(name) for code, name in LANGUAGES.items()},
    **dict.fromkeys(("siglo", "siglos"), century),
    **dict.fromkeys(("ac", "a.c.", "a. c.", "adc"), before_christ),
    **dict.fromkeys(("dc", "d.c.", "d. c.", "ddc"), after_christ),
    **dict.fromkeys(("frac", "fracción", "fraction"), fraction),
    **dict.fromkeys(("nihongo", "japonés"), japanese),
    **dict.fromkeys(("cita", "cquote", "quote", "cita textual", "cita destacada", "blockquote"), quotation),
    **dict.fromkeys(("enlace interlingüístico", "ill", "link-interwiki"), second),
    **dict.fromkeys(("hlist", "lista horizontal", "unbulleted list", "plainlist"), coordinated),
    **dict.fromkeys(("nowrap", "nobr", "esd", "small", "big", "versalita", "sc", "mayúsculas", "texto", "año"), first),
    **dict.fromkeys(
        ("abbr", "abreviatura", "abr", "tooltip", "sort", "sortname", "bandera2", "nombre científico"), first
    ),
    **dict.fromkeys(("subíndice", "sub", "superíndice", "sup", "negrita", "cursiva", "resaltar", "subrayado"), first),
    **dict.fromkeys(("num", "formatnum", "nts", "dinero", "moneda", "euro", "ruby", "ipa", "afi", "unicode"), first),
    **dict.fromkeys(("politónico", "polytonic", "árabe", "hebreo", "griego", "latín", "enlace roto"), first),
    "sic": lambda call: "[sic]",
    "!": lambda call: "|",
    "=": lambda call: "=",
    "·": lambda call: "·",
}
