# ruff: noqa: E501
"""A real MediaWiki on loopback, from Debian's packages, filled with pages whose clean text is known."""

import contextlib
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEDIAWIKI = Path("/usr/share/mediawiki")
PHP_MODULES = {"sqlite3", "mbstring", "xml", "intl", "curl"}

# Pairs of wikitext and the clean text that both ways of reading must make of it. {n}: the article's number.
FEATURES = [
    ("Fue '''fundada''' en {{{{fecha|12|10|{year}}}}} por ''varios'' navegantes.", "Fue fundada en 12 de octubre de {year} por varios navegantes."),
    ("Dista {{{{convertir|{n}|km}}}} de la [[Costa verde|costa]] y {{{{convertir|3|a|5|km}}}} del [[río]].", "Dista {n} km de la costa y 3 a 5 km del río."),
    ("El lema {{{{lang|la|plus ultra {n}}}}} figura en el escudo.<ref>{{{{Cita libro|título=Escudos|año=1990}}}}</ref>", "El lema plus ultra {n} figura en el escudo."),
    ("Se cita<ref name=\"a{n}\">Nota con [[enlace]] y {{{{lang|la|latín}}}}.</ref> a menudo.<ref name=\"a{n}\" />", "Se cita a menudo."),
    ("[[Archivo:Foto {n}.jpg|miniatura|izquierda|Vista de la [[Plaza Mayor|plaza]] en {{{{fecha|1|2|1900}}}}.]]\nEl mercado {n} abre los martes.", "El mercado {n} abre los martes."),
    ("{{| class=\"wikitable\"\n! Año !! Dato\n|-\n| 1900\n|\n{{| \n| dentro {n}\n|}}\n|}}\nLa tabla anterior no es prosa {n}.", "La tabla anterior no es prosa {n}."),
    ("== Historia del lugar {n} ==\nLa historia {n} empieza aquí.<!-- no se ve -->", "La historia {n} empieza aquí."),
    ("=== Economía {n} ===\n* Minería {n} del cobre, que fue importante.\n* Pesca {n} del bonito, que lo es hoy.\n# Primero {n} va el cobre.\n## Después {n} el bonito.", "Minería {n} del cobre, que fue importante.\nPesca {n} del bonito, que lo es hoy.\nPrimero {n} va el cobre.\nDespués {n} el bonito."),
    ("<gallery>\nArchivo:A{n}.jpg|Uno\nImagen:B{n}.jpg|Dos\n</gallery>\nTras la galería {n} sigue el texto.", "Tras la galería {n} sigue el texto."),
    ("{{{{Ficha|nombre=Lugar {n}|lema={{{{lang|la|lema}}}}|superficie={{{{convertir|5|km}}}}}}}}\nLa ficha {n} queda fuera.", "La ficha {n} queda fuera."),
    ("El [[wikt:sol|sol]] brilla {n} veces en los [[árbol]]es; véase [http://ejemplo.org/{n} el sitio].", "El sol brilla {n} veces en los árboles; véase el sitio."),
    ("El rótulo <nowiki>dice * {n} = [sic]</nowiki> y se ve tal cual.", None),
    ("El {{{{siglo|XVI||s}}}} y {{{{AC|{n}}}}} &ndash; fechas &amp; eras&nbsp;&mdash; se conservan.", "El siglo XVI y {n} a. C. — fechas & eras — se conservan."),
    ("Una línea {n} con <small>letra pequeña</small>, H<sub>2</sub>O y 5 m<sup>2</sup>.", "Una línea {n} con letra pequeña, H2O y 5 m2."),
    ("; Término {n}\n: Definición {n} del término.\n:: Sangría {n} doble.", "Término {n}\nDefinición {n} del término.\nSangría {n} doble."),
    ("{{{{nowrap|{n} habitantes}}}} viven en ''[[L'Hospitalet]]'', según el '''''censo'''''.", "{n} habitantes viven en L'Hospitalet, según el censo."),
]  # fmt: skip
FILLER = (
    "El artículo número {n} trata de un lugar que nadie conoce, con casas {word} y calles {word}.",
    "Sus habitantes {n} cuentan que un viajero llegó desde {word} y se quedó para siempre en aquel valle.",
    "La cosecha del año {year} fue tan buena que el pueblo de {word} todavía la recuerda con alegría.",
    "En las fiestas de {word} se baila hasta la madrugada, y los músicos {n} no cobran por tocar.",
    "Nadie sabe por qué el puente de {word} tiene {n} arcos, aunque se ha escrito mucho sobre ello.",
)
SYLLABLES = ("ba", "co", "du", "fe", "gi", "lo", "ma", "nu", "pe", "ri", "so", "ta", "ve", "za")
CLOSING = """
== Véase también ==
* [[Artículo 1]]
== Referencias ==
{{{{listaref}}}}
== Enlaces externos ==
* [http://ejemplo.org/{n} Sitio {n}]
[[Categoría:Lugares]]
[[Categoría:{parity}]]
[[en:Place {n}]]
{{{{ORDENAR:Lugar {n}}}}}
__NOTOC__
"""
TEMPLATES = {
    "Convertir": "{{#if:{{{4|}}}|{{{1}}} {{{2}}} {{{3}}} {{{4}}}|{{{1}}} {{{2}}}}}<noinclude>[[Categoría:X]]</noinclude>",
    "Fecha": "{{{1}}} de {{#switch:{{{2}}}|1=enero|2=febrero|10=octubre}} de {{{3}}}",
    "Lang": "<span lang=\"{{{1}}}\">''{{{2}}}''</span>",
    "Cita libro": "''{{{título}}}'' ({{{año}}})",
    "Ficha": '<table class="infobox"><tr><th>{{{nombre}}}</th></tr><tr><td>{{{lema}}} {{{superficie}}}</td></tr></table>',
    "Siglo": "siglo {{{1}}}",
    "AC": "{{{1}}} a. C.",
    "Nowrap": '<span style="white-space:nowrap">{{{1}}}</span>',
    "Listaref": "<references />",
    "Desambiguación": "__DISAMBIG__''Página de desambiguación''",
}
SETTINGS = """
wfLoadExtension('TextExtracts'); wfLoadExtension('Cite'); wfLoadExtension('ParserFunctions');
$wgJobRunRate = 0; $wgMainCacheType = CACHE_NONE; $wgParserCacheType = CACHE_DB; $wgRightsText = 'Creative Commons Atribución-CompartirIgual 4.0';
$wgHooks['GetDoubleUnderscoreIDs'][] = function ( &$ids ) { $ids[] = 'disambiguation'; };
$wgExtensionMessagesFiles['Disambiguation'] = __DIR__ . '/magic.php';
"""


@dataclass(frozen=True)
class Wiki:
    """A MediaWiki that is running.

    Args:
        folder: of its configuration and database.
        port: on 127.0.0.1.
        texts: the clean text of each article, by title.
    """

    folder: Path
    port: int
    texts: dict[str, str]

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api.php"

    def maintenance(self, script: str, *arguments: str) -> bytes:
        """Run one of MediaWiki's maintenance scripts and return what it prints."""
        environment = {**os.environ, "MW_CONFIG_FILE": str(self.folder / "LocalSettings.php")}
        command = ["php", str(MEDIAWIKI / "maintenance" / script), *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


def missing() -> str | None:
    """Return what the machine lacks to run MediaWiki, None where it lacks nothing."""
    if shutil.which("php") is None or not MEDIAWIKI.is_dir():
        return "Debian's packages mediawiki and php-cli are not installed"
    modules = set(subprocess.run(["php", "-m"], capture_output=True, text=True).stdout.lower().split())
    lacking = sorted(PHP_MODULES - modules)
    return f"PHP lacks {', '.join(lacking)}: install php-{lacking[0]}" if lacking else None


def word(number: int) -> str:
    return "".join(SYLLABLES[number // len(SYLLABLES) ** place % len(SYLLABLES)] for place in range(4))


def article(number: int) -> tuple[str, str]:
    """Return the wikitext of an article and the clean text that must come out."""
    values = {"n": number, "year": 1000 + number, "parity": "Pares" if number % 2 == 0 else "Impares"}
    parts = []
    for place, filler in enumerate(FILLER):
        sentence = filler.format(word=word(number * 7919 + place * 104729), **values)
        parts.append((sentence, sentence))
        for offset in range(2):
            source, clean = FEATURES[(number + place * 2 + offset) % len(FEATURES)]
            clean = source.replace("<nowiki>", "").replace("</nowiki>", "") if clean is None else clean
            parts.append((source.format(**values), clean.format(**values)))
    source = "\n\n".join(part for part, _ in parts) + CLOSING.format(**values)
    return source, "\n".join(clean for _, clean in parts)


def pages(articles: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the wikitext of all pages by title, and the clean text of the articles among them."""
    sources, texts = {}, {}
    for number in range(1, articles + 1):
        sources[f"Artículo {number}"], texts[f"Artículo {number}"] = article(number)
    for number in range(1, 6):
        sources[f"Esbozo {number}"] = texts[f"Esbozo {number}"] = f"El esbozo {number} es breve."
    for number in range(1, 4):
        sources[f"Copia {number}"], texts[f"Copia {number}"] = article(number)
    for number in range(1, 9):
        sources[f"Redirección {number}"] = f"#REDIRECCIÓN [[Artículo {number}]]"
    for number in range(1, 5):
        links = f"* [[Artículo {number}]]\n* [[Artículo {number + 4}]]"
        sources[f"Lugar {number}"] = f"'''Lugar {number}''' puede referirse a:\n{links}\n{{{{desambiguación}}}}"
    sources["Categoría:Pares"] = "[[Categoría:Números]]"
    sources["Categoría:Impares"] = "[[Categoría:Números]]\n[[Categoría:Pares]]"
    sources["Categoría:Números"] = "[[Categoría:Impares]]"  # a circle, as real categories have
    return sources, texts


@contextlib.contextmanager
def running(folder: Path, articles: int) -> Iterator[Wiki]:
    """Install and fill a MediaWiki, and serve it until the block ends.

    Args:
        folder: an empty folder for it.
        articles: how many articles to fill it with; stubs, copies, redirects and the like come on top.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sources, texts = pages(articles)
    wiki = Wiki(folder, port, texts)
    options = {"dbtype": "sqlite", "dbpath": str(folder / "data"), "confpath": str(folder), "scriptpath": ""}
    options |= {"server": f"http://127.0.0.1:{port}", "lang": "es", "pass": secrets.token_hex(16)}
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    install = ["php", str(MEDIAWIKI / "maintenance" / "install.php"), *flags, "Prueba", "Admin"]
    subprocess.run(install, check=True, capture_output=True)
    with (folder / "LocalSettings.php").open("a") as settings:
        settings.write(SETTINGS)
    (folder / "magic.php").write_text(
        "<?php $magicWords = []; $magicWords['en'] = ['disambiguation' => [0, '__DISAMBIG__']];"
    )
    templates = {f"Plantilla:{name}": source for name, source in TEMPLATES.items()}
    for name, group in ("templates", templates), ("pages", sources):
        (folder / name).mkdir()
        files = []
        for title, source in group.items():
            files.append(folder / name / f"{title}.txt")
            files[-1].write_text(source, encoding="utf-8")
        wiki.maintenance("importTextFiles.php", "--rc", "-u", "Admin", "--overwrite", *map(str, files))
    wiki.maintenance("deleteBatch.php", "-u", "Admin", str(_listed(folder / "delete.txt", wiki)))
    environment = {
        **os.environ,
        "MW_CONFIG_FILE": str(folder / "LocalSettings.php"),
        "PHP_CLI_SERVER_WORKERS": "2",
    }
    command = ["php", "-S", f"127.0.0.1:{port}", "-t", str(MEDIAWIKI)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            _wait_for(port)
            yield wiki
        finally:
            os.killpg(server.pid, 15)  # its workers too


def _listed(file: Path, wiki: Wiki) -> Path:
    """Write a list of the pages that the installation made."""
    file.write_text("Página principal\nMain Page\nPortada\n", encoding="utf-8")
    return file


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/api.php?action=query&format=json")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("MediaWiki does not answer")
