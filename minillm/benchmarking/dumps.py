"""Dumps of any size without a network: the sentences of the sample corpus, drawn anew for each page."""

import bz2
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from xml.sax.saxutils import escape

from minillm.corpus import SampleSource

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="es">
<siteinfo><sitename>Wikipedia</sitename><dbname>eswiki</dbname><case>first-letter</case><namespaces>
<namespace key="0" case="first-letter" /></namespaces></siteinfo>
"""
PAGE = """<page><title>{title}</title><ns>0</ns><id>{number}</id>{redirect}<revision><id>{revision}</id>
<timestamp>2026-01-01T00:00:00Z</timestamp><model>wikitext</model><format>text/x-wiki</format>
<text bytes="{size}" xml:space="preserve">{text}</text></revision></page>
"""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-ZÁÉÍÓÚÑ¿¡«])")
REDIRECTS, NEAR_COPIES = 0.04, 0.02  # shares of the pages
COPIED = 2000  # pages that near copies are made of
TABLE = '\n{| class="wikitable"\n! Año !! Valor\n|-\n| 1990 || 12\n|-\n| 2000 || 15\n|}\n'
END = (
    "\n== Referencias ==\n{{listaref}}\n\n== Enlaces externos ==\n* [http://ejemplo.org Sitio]\n\n[[Categoría:Prueba]]"
)


def write_dump(files: Sequence[Path], pages: int, seed: int = 0) -> int:
    """Write a pages-articles dump; return how many bytes its XML has.

    Args:
        files: packed with bzip2, each with as many pages; several are the parts of one dump.
        pages: how many, redirects and near copies of others among them.
        seed: the same one draws the same pages, however many parts there are.
    """
    size = 0
    with ExitStack() as stack:
        parts = [stack.enter_context(bz2.open(file, "wb", compresslevel=1)) for file in files]
        for part in parts:
            size += part.write(HEAD.encode())
        for number, page in enumerate(_pages(pages, seed)):
            size += parts[number * len(parts) // pages].write(page.encode())
        for part in parts:
            size += part.write(b"</mediawiki>\n")
    return size


def _pages(count: int, seed: int) -> Iterator[str]:
    """Yield the pages, as XML."""
    draw = random.Random(seed)
    texts = (article.text.replace("\n", " ") for article in SampleSource().articles(None, set()))
    pool = sorted({part for text in texts for part in SENTENCE_END.split(text) if 40 < len(part) < 500})
    copied: list[list[str]] = []
    for number in range(1, count + 1):
        kind, redirect, title = draw.random(), "", f"Artículo {number}"
        if kind < REDIRECTS:
            redirect, text = '<redirect title="Artículo 1" />', "#REDIRECCIÓN [[Artículo 1]]"
        else:
            if kind < REDIRECTS + NEAR_COPIES and copied:
                sentences = list(draw.choice(copied))
                sentences[draw.randrange(len(sentences))] = draw.choice(pool)
            else:
                length = min(60, max(6, int(draw.lognormvariate(2.8, 0.6))))  # about 2.4 kB in the mean
                sentences = [draw.choice(pool) for _ in range(length)]
                if len(copied) < COPIED:
                    copied.append(sentences)
            text = _wikitext(draw, title, sentences)
        yield PAGE.format(
            title=title,
            number=number,
            redirect=redirect,
            revision=10**8 + number,
            size=len(text.encode()),
            text=escape(text),
        )


def _wikitext(draw: random.Random, title: str, sentences: Sequence[str]) -> str:
    """Return a page of the sentences: with links, references, templates, headings, now and then a table."""
    written = [f"{{{{Ficha|nombre={title}|imagen=Foto {title}.jpg}}}}\n'''{title}''' "]
    for number, sentence in enumerate(sentences):
        words = sentence.split(" ")
        linked = draw.randrange(len(words))
        if (word := words[linked].strip(',.;:()"«»')) and draw.random() < 0.7:
            link = f"[[{word}]]" if draw.random() < 0.5 else f"[[{word} (concepto)|{word}]]"
            words[linked] = words[linked].replace(word, link, 1)
        written.append(" ".join(words))
        if draw.random() < 0.25:
            address = f"http://ejemplo.org/{draw.randrange(10**6)}"
            written.append(f"<ref>{{{{cita web|url={address}|título={word}|año={draw.randrange(1900, 2026)}}}}}</ref>")
        written.append(" ")
        if number % 7 == 6:
            written.append("\n\n" if draw.random() < 0.6 else f"\n\n== {word or title} ==\n")
    if draw.random() < 0.3:
        written.append(TABLE)
    return "".join((*written, END))
