"""Cleaning: a chain of small pure functions from text to text.

The chain produces one canonical form: one line break between paragraphs, one space between words; straight quotation
marks " and ', with guillemets « » kept; the hyphen - within words and ranges and as a minus, the dash — around an
aside; no headings, sources, links or markup.

Each function is cheap where it finds nothing to do, and its time is linear in the text, whatever the text: possessive
quantifiers (``++``, ``*+``) prevent backtracking, and nested markup is resolved in a bounded number of passes. Groups
have no possessive quantifiers: before Python 3.11.5 a possessive group that fails matches wrongly
(https://github.com/python/cpython/issues/106052).
"""

import html
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from html.entities import html5
from itertools import takewhile
from operator import eq

import ftfy

VERSION = 1  # raised when the same text gets another result

# Characters of UTF-8 text that was decoded as another encoding. Testing each takes half the time of one pattern.
MOJIBAKE_SIGNS = "ÂÃÄÅÎÏÐÑâðŸĂĐƒΓГРр√├┬" + "".join(map(chr, range(0x80, 0xA0)))
MOJIBAKE = re.compile(f"[{MOJIBAKE_SIGNS}]")
AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#0{0,5}38|#[xX]0{0,4}26);)+")  # escaped once or many times over
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
LINE_BREAK = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
CONTROL = re.compile(  # Unicode's control and format characters, and surrogates
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
MAX_MARKS = 30  # combining marks per letter; no script has more (Unicode Standard Annex 15, Stream-Safe Text Format)
MAYBE_MARK = re.compile("[\u0300-\u1fff\u20d0-\U0010ffff]")

CLOSED_REF = re.compile(r"<ref\b[^<>]*/>", re.IGNORECASE)
HIDDEN_ELEMENTS = frozenset((
    "ref", "math", "gallery", "timeline", "table", "style", "script", "syntaxhighlight", "source", "score",
    "imagemap"
))  # fmt: skip
ANY_TAG = re.compile(r"</?+([a-z]++[1-6]?+)(?:\s++[\w-]++\s*+=[^<>]*+|\s*+/?+)>", re.IGNORECASE)
BREAKS = frozenset((
    "br", "p", "div", "li", "ul", "ol", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "blockquote", "poem",
    "center"
))  # fmt: skip
TAGS = frozenset((
    "a", "abbr", "b", "big", "cite", "code", "dd", "del", "dl", "dt", "em", "font", "i", "img", "includeonly",
    "ins", "kbd", "mark", "noinclude", "nowiki", "onlyinclude", "pre", "q", "ref", "references", "s", "samp",
    "small", "span", "strike", "strong", "sub", "sup", "td", "th", "tt", "u", "var"
))  # fmt: skip
BRACES, BARS, BRACKETS = re.compile(r"\{\{|\}\}"), re.compile(r"\{\||\|\}"), re.compile(r"\[\[|\]\]")
TEMPLATE = re.compile(r"\{\{(?:[^{}]++|\{[^{}]*+\})*\}\}")
TABLE = re.compile(r"^[ \t:]*\{\|(?:(?!^[ \t:]*\{\|).)*?^[ \t]*\|\}", re.MULTILINE | re.DOTALL)
WIKI_LINK = re.compile(r"\[\[([^\[\]]*+)\]\]")
UNSEEN_LINK = re.compile(
    r"\s*(?:(?:archivo|imagen|file|image|media|categoría|categoria|category)\s*:|(?-i:[a-z]{2,3}:\S))", re.IGNORECASE
)
WEB_LINK = re.compile(r"\[(?:(?:https?|ftp):)?//[^\s\[\]]++\s*+([^\[\]]*+)\]", re.IGNORECASE)
APOSTROPHES = re.compile(  # group 1: can begin and end emphasis; 2: can only begin it; 3: can only end it
    r"''(?:(?<=[^\s\d']'')'{0,3}+(?=[^\s'])()|(?<!\S'')'{0,3}+(?=[^\s'])()|(?<=[^\s']'')'{0,3}+(?!')())"
)
BEGINS, ENDS = 2, 3
BULLETS = ("*", "#", ":", ";")
BULLET = re.compile(r"[*#:;]++[ \t]++|\*++(?=\w)")  # at the beginning of a line
SWITCH = re.compile(r"__[A-ZÁÉÍÓÚÑ]++(?:_[A-ZÁÉÍÓÚÑ]++)*__")

HEADING_LINE = re.compile(r"[^\S\n]*+(={2}[^\n]*={2})[^\S\n]*+(?:\n|\Z)")
TRAILING = re.compile(
    r"(?:notas?|referencias?|fuentes|bibliograf[ií]a)"
    r"(?:(?:,| y| e) (?:notas|referencias|citas|fuentes|bibliograf[ií]a))*"
    r"|(?:notas|referencias|fuentes) (?:bibliográficas|generales|al pie)"
    r"|bibliograf[ií]a (?:adicional|recomendada|complementaria|general|consultada|utilizada)"
    r"|(?:v[ée]ase|ver) tambi[ée]n|enlaces? externos?|v[ií]nculos? externos?"
    r"|lecturas? (?:adicional|recomendada|complementaria)(?:e?s)?|otras lecturas|para saber más",
    re.IGNORECASE,
)

REFERENCE_MARK = re.compile(
    r"(?<=[^\s\[])\[[1-9]\d{0,2}+(?:\s*+[,–-]\s*+[1-9]\d{0,2}+)+\]"  # [1, 2] after a word; apart it may be an interval
    r"|\[(?:[1-9]\d{0,2}|(?:notas?|nb|n\.?|ref\.?|nota al pie) ?\d{1,3}|editar|¿[^\[\]\n]{1,20}\?|c\. ?r\."
    r"|actualización|investigación original|fuente poco fiable"
    r"|(?:[^\W\d]+ ){1,3}(?:requerid[ao]s?|necesari[ao]s?|inadecuad[ao]s?|needed))\]",
    re.IGNORECASE,
)
URL = re.compile(
    r"<?(?:(?:https?|ftp)://|www\.)[^\s<>\"«»“”|\[\]{}()]*(?:\([^\s()]*\)[^\s<>\"«»“”|\[\]{}()]*)*>?", re.IGNORECASE
)
STRAY = (" ", ",", ";", ":")  # at the inner edge of an otherwise empty or broken parenthesis
AFTER_OPENING = {"(": (")", *STRAY), "[": ("]", " ")}
EMPTY = re.compile(r"(?<!\w)(?:\([\s,;:]*\)|\[\s*\])")
OPENING = re.compile(r"\((?:[ \t]*+[,;:])+[ \t]*+")
CLOSING = re.compile(r"(?<![ \t,;:])[ \t]*+[,;:][ \t,;:]*+\)")

QUOTES = str.maketrans(dict.fromkeys("“”„‟❝❞＂", '"') | dict.fromkeys("‘’‚‛❛❜＇", "'"))
DOUBLED = re.compile("[‘’‚‛]{2}")
RANGE = re.compile(r"(?<=\d) ?[–‒] ?(?=\d)|(?<=\d)—(?=\d)|(?<=\w)[–‒](?=\w)|(?<![^\s(\[«\"])[–‒](?=\d)")
LONG_RANGE = re.compile(r"—(?<=\d.)(?=\d)")
TYPED_DASH = re.compile(r"(?<=[^\S\n])-{2,3}(?=[^\S\n])")

MONTHS = (
    "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre",
    "diciembre",
)  # fmt: skip
# The first digit precedes the lookbehind for what must not stand before it, so the search stops at digits only.
MONTH, YEAR = f"(?P<month>{'|'.join(MONTHS)})", r"(?P<year>[12]\d{3})"
DAY = r"(?P<day>[0-9](?<![\w.,/-].)(?:(?<=[12])\d|(?<=3)[01]|(?<=0)[1-9]|(?<=[1-9])))"
DATES = tuple(
    re.compile(rf"{form}(?![\w/-]|[.,]\d)", re.IGNORECASE)
    for form in (
        rf"{DAY}(?:\.?[ºo]|ro)? de {MONTH}(?: del? (?:año )?{YEAR})?",
        rf"(?<![\w.,/-])(?=[adefjmnos]\w{{3}}){MONTH} {DAY}(?:,| del?) {YEAR}",
        rf"{DAY}(?P<sign>[/.-])(?P<number>0?[1-9]|1[0-2])(?P=sign){YEAR}",
        r"(?P<year>[12](?<![\w.,/-].)\d{3})-(?P<number>0[1-9]|1[0-2])-(?P<day>0[1-9]|[12]\d|3[01])",
    )
)
NUMERAL = re.compile(r"\d[\d.,]*\d")
DECIMAL = re.compile(r"\d([.,])(?:\d{1,2}|\d{4,})")  # not three digits: no thousands
THOUSANDS = re.compile(
    r"(?P<whole>\d(?<![\w.,'/-].)(?<!\d .)\d{0,2}(?P<sign>[., '])\d{3}(?:(?P=sign)\d{3})*)"
    r"(?P<decimals>[.,]\d+)?(?![\w'/-]|[., ]\d)"
)

OTHER_SPACES = tuple(set(filter(str.isspace, map(chr, range(0x3001)))) - {" ", "\n"})
AFTER_SPACE = re.compile(r" [ \n,;.:)\]»]")
OPENING_SIGNS = "([«¿¡"
LOOSE_SPACE = re.compile(r"(?<=[(\[«¿¡]) | (?=[)\]»]|[,;.](?:\s|\Z))|(?<!\d) (?=:(?:\s|\Z))")
SIGN = re.compile(r"[^\w\s.,;:!?¿¡«»]")
REPAIRED_AT_ONCE = 5000  # characters; the cost of a repair grows faster than its text
MAX_DAMAGED_LINES = 20_000  # a text with more is repaired without regard to lines


def mojibake(text: str) -> str:
    """Repair text that was decoded with the wrong encoding, line by line.

    >>> mojibake("educaciÃ³n en EspaÃ±a")
    'educación en España'
    """
    if not any(sign in text for sign in MOJIBAKE_SIGNS):
        return text
    lines = text.split("\n")
    damaged = [number for number, line in enumerate(lines) if MOJIBAKE.search(line)]
    if len(damaged) > MAX_DAMAGED_LINES:
        return _repaired(text)
    for number in damaged:
        lines[number] = _repaired(lines[number])
    return "\n".join(lines)


def _repaired(line: str) -> str:
    """Repair a line; a long one in parts."""
    parts, start = [], 0
    while len(line) - start > REPAIRED_AT_ONCE:
        cut = max(line.rfind(space, start + 1, start + REPAIRED_AT_ONCE) for space in " \n")
        cut = cut if cut > 0 else start + REPAIRED_AT_ONCE
        parts.append(line[start:cut])
        start = cut
    parts.append(line[start:])
    return "".join(ftfy.fixes.fix_c1_controls(ftfy.fix_encoding(part)) for part in parts)


def html_entities(text: str) -> str:
    """Replace HTML entities by their characters.

    >>> html_entities("Simon &amp; Schuster, 5 &lt; 6, AT&T")
    'Simon & Schuster, 5 < 6, AT&T'
    """
    for _ in range(passes(text)):
        if "&" not in text:
            break
        text = AMPERSAND.sub("&", text)
        characters = {entity: _entity(entity) for entity in set(ENTITY.findall(text))}
        if all(map(eq, characters, characters.values())):
            break
        text = ENTITY.sub(lambda match: characters[match[0]], text)  # noqa: B023 (called at once)
    return text


def _entity(entity: str) -> str:
    return html.unescape(entity) if entity[1] == "#" else html5.get(entity[1:], entity)


def control_characters(text: str) -> str:
    r"""Remove control and zero-width characters, soft hyphens and byte order marks; make every line break a "\n".

    >>> control_characters("\ufefffoto\u00adsíntesis\u200b\r\n")
    'fotosíntesis\n'
    """
    if text.replace("\n", "").isprintable():
        return text
    return CONTROL.sub("", LINE_BREAK.sub("\n", text))


def unicode_nfc(text: str) -> str:
    r"""Write each accented letter as one character (Unicode normalization form C).

    >>> unicode_nfc("canio\u0301n")
    'canión'
    """
    # Normalizing sorts a letter's marks, in time quadratic in their number. The sample hits any run that is too long.
    if MAYBE_MARK.search(text[::MAX_MARKS]):
        text = _too_many_marks().sub(r"\1", text)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


@cache
def _too_many_marks() -> re.Pattern[str]:
    """Return the pattern of more than `MAX_MARKS` combining marks in a row; its group has the first ones."""
    marks = "".join(filter(unicodedata.combining, map(chr, range(sys.maxunicode + 1))))
    return re.compile(f"([{marks}]{{{MAX_MARKS}}})[{marks}]+")


def markup(text: str) -> str:
    """Remove remaining wiki markup and HTML; keep the visible text of links and emphasis.

    >>> markup("'''Lima'''<ref>INEI</ref> es la [[Capital (política)|capital]] del [[Perú]].{{cr}}<br/>")
    'Lima es la capital del Perú.\\n'
    """
    if "<" in text:
        text = elements(HIDDEN_ELEMENTS, lambda content: "", CLOSED_REF.sub("", comments(text)))
        text = ANY_TAG.sub(_tag, text)
    if "{" in text:
        if "{{" in text:
            text = until_stable(TEMPLATE, "", BRACES, text)
        if "{|" in text:
            text = until_stable(TABLE, "", BARS, text)
    if "[" in text:
        if "[[" in text:
            text = until_stable(WIKI_LINK, _link_text, BRACKETS, text)
        text = WEB_LINK.sub(r"\1", text)
    if "'" in text and "''" in text:
        text = _emphasis(text)
    if "_" in text and "__" in text:
        text = SWITCH.sub("", text)
    if any(bullet in text for bullet in BULLETS):
        text = in_lines(BULLET, "", BULLETS, text)
    return text


def in_lines(pattern: re.Pattern[str], replacement: str, signs: tuple[str, ...], text: str) -> str:
    """Replace matches at the beginning of lines.

    Args:
        pattern: to replace.
        replacement: of each match.
        signs: with which each match begins; other lines are skipped fast.
        text: the text.
    """
    lines = text.split("\n")
    changed = False
    for number, line in enumerate(lines):
        if line.startswith(signs) and (found := pattern.match(line)):
            lines[number] = replacement + line[found.end() :]
            changed = True
    return "\n".join(lines) if changed else text


def _tag(tag: re.Match[str]) -> str:
    name = tag[1].lower()
    return "\n" if name in BREAKS else "" if name in TAGS else tag[0]


def _link_text(match: re.Match[str]) -> str:
    link = match[1]
    return "" if UNSEEN_LINK.match(link) else link.rpartition("|")[2].removeprefix(":")


def comments(text: str) -> str:
    """Remove HTML comments.

    >>> comments("uno<!-- dos --> tres <!-- cuatro")
    'uno tres <!-- cuatro'
    """
    kept, start = [], 0
    while (begin := text.find("<!--", start)) >= 0 and (end := text.find("-->", begin + 4)) >= 0:
        kept.append(text[start:begin])
        start = end + 3
    return "".join((*kept, text[start:])) if start else text


def elements(names: frozenset[str], shown: Callable[[str], str], text: str) -> str:
    """Replace elements, each from its opening tag to the next closing tag of that name; unclosed ones stay.

    Args:
        names: of the elements, in lower case.
        shown: maps an element's content to its replacement.
        text: the text.
    """
    kept: list[str] = []
    start = place = 0
    while names and (tag := _opening_tag(names).search(text, place)):
        place = tag.end()
        name = tag[1].lower()
        if closing := _closing_tag(name).search(text, place):
            kept += text[start : tag.start()], shown(text[place : closing.start()])
            start = place = closing.end()
        else:  # no element of this name is closed from here on
            names -= {name}
    return "".join((*kept, text[start:])) if start else text


@lru_cache
def _opening_tag(names: frozenset[str]) -> re.Pattern[str]:
    return re.compile(rf"<(?=[A-Za-z])((?ai:{'|'.join(sorted(names))}))\b[^<>]*>")


@lru_cache
def _closing_tag(name: str) -> re.Pattern[str]:
    return re.compile(rf"</{name}\s*+>", re.IGNORECASE)


def _emphasis(text: str) -> str:
    """Remove the apostrophes around emphasized words, within a line; those of minutes and seconds stay."""
    count = passes(text)
    return "\n".join(_without_emphasis(line, count) if line.count("''") > 1 else line for line in text.split("\n"))


def _without_emphasis(line: str, count: int) -> str:
    """Return a line without emphasis, resolved in at most ``count`` passes."""
    runs = [(run.start(), len(run[0]), run.lastindex) for run in APOSTROPHES.finditer(line)]
    cuts: list[tuple[int, int]] = []
    for _ in range(count):
        last = {length: begin for begin, length, kind in runs if kind != BEGINS}
        rest, opened = [], None
        for run in runs if last else ():
            begin, length, kind = run
            if opened and length == opened[1] and kind != BEGINS:
                cuts += opened[:2], (begin, length)
                opened = None
            elif not opened and kind != ENDS and last.get(length, 0) > begin:
                opened = run
            else:
                rest.append(run)  # for the next pass, if nested in this pass's emphasis
        if not last or len(rest) == len(runs):
            break
        runs = rest
    kept, start = [], 0
    for begin, length in sorted(cuts):
        kept.append(line[start:begin])
        start = begin + length
    return "".join((*kept, line[start:])) if cuts else line


def passes(text: str) -> int:
    """Return the most passes over a text to resolve nesting: fewer for long texts.

    Real pages need 3 or 4 passes.
    """
    return min(20, max(3, 8_000_000 // max(1, len(text))))


def until_stable(
    pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str], signs: re.Pattern[str], text: str
) -> str:
    """Replace nested matches, the innermost first. Where nesting is deeper than `passes`, only the signs are removed.

    Args:
        pattern: to replace.
        replacement: of each match.
        signs: with which the pattern begins and ends.
        text: the text.
    """
    for _ in range(passes(text)):
        text, found = pattern.subn(replacement, text)
        if not found:
            return text
    return signs.sub("", text)


def trailing_sections(text: str) -> str:
    r"""Remove sections without prose (references, see also, external links, ...) and their subsections.

    >>> trailing_sections("Texto.\n== Véase también ==\nOtro\n== Historia ==\nMás texto.\n== Referencias ==\n1. Libro")
    'Texto.\n== Historia ==\nMás texto.\n'
    """
    if "=" not in text or "==" not in text:
        return text
    kept, start, dropped = [], 0, 0  # dropped: level of the dropped section, 0: none
    for begin, _, level, title in _headings(text):
        if dropped and level > dropped:
            continue
        if not dropped:
            kept.append(text[start:begin])
        start = begin
        dropped = level if TRAILING.fullmatch(title.strip("' :.\t")) else 0
    return "".join(kept) + ("" if dropped else text[start:])


def headings(text: str) -> str:
    r"""Remove the lines that are section headings.

    >>> headings("Texto.\n\n== Historia ==\n\nMás texto, 2 == 2.")
    'Texto.\n\n\nMás texto, 2 == 2.'
    """
    if "=" not in text or "==" not in text:
        return text
    kept, start = [], 0
    for begin, end, _, _ in _headings(text):
        kept.append(text[start:begin])
        start = end
    return "".join((*kept, text[start:])) if start else text


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """Yield each heading: start and end of its line, its level, its title."""
    place = 0
    while (sign := text.find("==", place)) >= 0:
        line = HEADING_LINE.match(text, text.rfind("\n", place, sign) + 1 or place)
        place = line.end() if line else text.find("\n", sign) + 1 or len(text)
        if not line:
            continue
        heading = line[1]
        before, after = len(heading) - len(heading.lstrip("=")), len(heading) - len(heading.rstrip("="))
        for level in range(min(6, before, after, (len(heading) - 1) // 2), 1, -1):
            if title := heading[level:-level].strip():
                yield line.start(), line.end(), level, title
                break


def reference_marks(text: str) -> str:
    """Remove reference marks; keep [sic], [...] and other words in brackets.

    >>> reference_marks("Murió en 1616[1][nota 2] en Madrid[cita requerida] [...].")
    'Murió en 1616 en Madrid [...].'
    """
    return REFERENCE_MARK.sub("", text) if "[" in text else text


def urls(text: str) -> str:
    """Remove web addresses, but not the punctuation after them.

    >>> urls("Véase https://es.wikipedia.org/wiki/Luna_(astro).")
    'Véase .'
    """
    if ("/" in text and "://" in text) or ("w" in text and "www." in text):
        return URL.sub(_after_url, text)
    return text


def _after_url(match: re.Match[str]) -> str:
    url = match[0].rstrip(".,;:!?…'")
    return match[0][len(url) :]


def empty_parentheses(text: str) -> str:
    """Remove empty parentheses, and stray punctuation at the inner edges of others.

    >>> empty_parentheses("Atenas (; 400 a. C.) y Roma ( , ) en main()")
    'Atenas (400 a. C.) y Roma  en main()'
    """
    if _any_hollow(text):
        text = CLOSING.sub(")", OPENING.sub("(", text))
        text = EMPTY.sub("", text)
    return text


def _any_hollow(text: str) -> bool:
    # Splitting at the few parentheses is seven times as fast as searching for each pair of signs.
    return any(part.endswith(STRAY) for part in text.split(")")[:-1]) or any(
        part.startswith(signs) for opening, signs in AFTER_OPENING.items() for part in text.split(opening)[1:]
    )


def quotes(text: str) -> str:
    """Make curly and low quotation marks straight; keep « and ».

    >>> quotes("“Hola”, «adiós» y ‘quizá’")
    '"Hola", «adiós» y \\'quizá\\''
    """
    if not any(quote in text for quote in "“”„‟‘’‚‛❝❞❛❜＂＇"):
        return text
    return DOUBLED.sub('"', text).translate(QUOTES)


def dashes(text: str) -> str:
    """Make ranges, compounds and minus signs hyphens, and every other dash —.

    >>> dashes("1939–1945, a −5 °C, el tren Madrid–Lisboa – que es lento –")
    '1939-1945, a -5 °C, el tren Madrid-Lisboa — que es lento —'
    """
    if any(hyphen in text for hyphen in "‐‑−"):
        text = text.replace("‐", "-").replace("‑", "-").replace("−", "-")
    if any(dash in text for dash in "–‒―"):
        text = RANGE.sub("-", text).replace("–", "—").replace("‒", "—").replace("―", "—")
    elif "—" in text:
        text = LONG_RANGE.sub("-", text)
    return TYPED_DASH.sub("—", text) if "--" in text else text


def spaces(text: str) -> str:
    r"""Leave one space between words, none before closing punctuation, and one line break between paragraphs.

    >>> spaces("Uno\u00a0 dos , (tres ).  \n\n\n Cuatro")
    'Uno dos, (tres).\nCuatro'
    """
    is_spaced = AFTER_SPACE.search(text) is not None
    is_mixed = any(space in text for space in OTHER_SPACES)
    lines = text.split("\n")
    if is_spaced or is_mixed or any(not line or line[0] == " " or line[-1] == " " for line in lines):
        tidy = (" ".join(line.split()) if is_mixed or "  " in line else line.strip(" ") for line in lines)
        text = "\n".join(filter(None, tidy))
        is_spaced = AFTER_SPACE.search(text) is not None
    # Most texts have no such space, and testing each sign takes a tenth of the pattern's time.
    is_loose = is_spaced or any(sign in text and f"{sign} " in text for sign in OPENING_SIGNS)
    return LOOSE_SPACE.sub("", text) if is_loose else text


def dates(text: str) -> str:
    """Write dates, also without a year, as "12 de marzo de 1998".

    Numeric dates are read day first, as in Spanish, or as ISO 8601; years have four digits, and both separators of a
    date are the same.

    >>> dates("El 12/03/1998, 1-5-2004 o 2001-09-11")
    'El 12 de marzo de 1998, 1 de mayo de 2004 o 11 de septiembre de 2001'
    >>> dates("el 1.º de Mayo, el 05 de junio del 1990; marzo 3 de 1821")
    'el 1 de mayo, el 5 de junio de 1990; 3 de marzo de 1821'
    >>> dates("12/03/98, 31/13/1998, 24-10, 1998-2004")
    '12/03/98, 31/13/1998, 24-10, 1998-2004'
    """
    for pattern in DATES:
        text = pattern.sub(_date, text)
    return text


def _date(match: re.Match[str]) -> str:
    month = match["month"].lower() if "month" in match.re.groupindex else MONTHS[int(match["number"]) - 1]
    date = f"{int(match['day'])} de {month}"
    return f"{date} de {match['year']}" if match["year"] else date


def numbers(text: str) -> str:
    """Write numbers from 10,000 on in groups of three digits separated by spaces, and decimals after a comma.

    A sign counts as a separator of thousands only where it is unambiguous: two signs or more ("1.234.567"), another
    sign at the decimals ("1.234,5"), or a text whose other numbers show whether point or comma is its decimal sign.

    >>> numbers("1.234.567, 1,234,567.5, 1 234 567 y 12 345,60; 3.141 y 0,125")
    '1 234 567, 1 234 567,5, 1 234 567 y 12 345,60; 3.141 y 0,125'
    >>> numbers("12.345 habitantes en 1.492,5 km², el 3,5 %")
    '12 345 habitantes en 1492,5 km², el 3,5 %'
    """
    signs = set()
    for numeral in NUMERAL.findall(text):  # only the last digits can be decimals
        last = max(numeral.rfind("."), numeral.rfind(","))
        if last > 0 and (match := DECIMAL.fullmatch(numeral, last - 1)):
            signs.add(match[1])
    decimal = signs.pop() if len(signs) == 1 else None
    return THOUSANDS.sub(lambda match: _number(match, decimal), text)


def _number(match: re.Match[str], decimal: str | None) -> str:
    whole, sign, decimals = match["whole"], match["sign"], match["decimals"] or ""
    digits = re.sub(r"\D", "", whole)
    if decimals.startswith(sign) or whole.startswith("0"):
        return match[0]  # "1.234.5" is no number, and "0.125" has no thousands
    if sign == " " and len(digits) < 5:
        return match[0]  # "el 7 123 personas": two numbers side by side
    certain = whole.count(sign) > 1 or decimals or sign in " '" or (decimal is not None and sign != decimal)
    if not certain:
        return match[0]
    if len(digits) > 4:
        digits = "".join(str(int(digit)) for digit in digits).lstrip("0") or "0"  # also of other scripts
        digits = " ".join(digits[max(0, end - 3) : end] for end in range(len(digits) % 3 or 3, len(digits) + 3, 3))
    return digits + decimals.replace(".", ",")


STEPS: tuple[Callable[[str], str], ...] = (
    mojibake,
    html_entities,
    control_characters,
    unicode_nfc,
    markup,
    trailing_sections,
    headings,
    reference_marks,
    urls,
    empty_parentheses,
    quotes,
    dashes,
    spaces,
    dates,
    numbers,
)


@dataclass(frozen=True)
class Cleaner:
    """The chain of cleaning steps. Each field switches the function of that name on or off.

    The chain repeats until nothing changes, so that a step sees what a later one uncovers, and clean text stays as it
    is. A text that still changes after the allowed `passes` is an attack, not prose; its changing lines lose all signs
    but punctuation marks. The last two steps rewrite text instead of cleaning it, and are off by default.
    """

    mojibake: bool = True
    html_entities: bool = True
    control_characters: bool = True
    unicode_nfc: bool = True
    markup: bool = True
    trailing_sections: bool = True
    headings: bool = True
    reference_marks: bool = True
    urls: bool = True
    empty_parentheses: bool = True
    quotes: bool = True
    dashes: bool = True
    spaces: bool = True
    dates: bool = False
    numbers: bool = False

    def clean(self, text: str) -> tuple[str, dict[str, int]]:
        """Return the clean text, and the number of characters that each step removed.

        Args:
            text: as the source has it.
        """
        steps = [step for step in STEPS if getattr(self, step.__name__)]
        removed = {step.__name__: 0 for step in steps}
        before, last = text, ""
        for attempt in range(2):
            settled = 0  # steps in a row that changed nothing
            for number, step in enumerate(steps * passes(text)):
                if settled == len(steps):
                    break
                if number % len(steps) == 0:
                    before = text
                previous, text = text, step(text)
                removed[step.__name__] += len(previous) - len(text)
                settled = settled + 1 if text == previous else 0
                last = step.__name__ if settled == 0 else last
            if settled == len(steps):
                break
            if attempt == 0:
                length = len(text)
                text = _without_signs(before, text)
                removed[last] += length - len(text)
        return text, removed


def _without_signs(before: str, text: str) -> str:
    """Return a text without signs from the first to the last line that the last pass changed."""
    old, new = before.split("\n"), text.split("\n")
    head = sum(takewhile(bool, map(eq, old, new)))
    tail = sum(takewhile(bool, map(eq, reversed(old[head:]), reversed(new[head:]))))
    end = len(new) - tail
    return "\n".join((*new[:head], *(SIGN.sub("", line) for line in new[head:end]), *new[end:]))
