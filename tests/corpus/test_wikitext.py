# ruff: noqa: E501
import random

import pytest

from minillm.corpus import Cleaner
from minillm.corpus.wikitext import SPANISH, Dialect, holes, is_disambiguation, is_redirect, plain_text

CASES = {
    "emphasis": [("'''Lima''' y ''Cuzco'' y '''''Ica''''' y l''''uno'''", "Lima y Cuzco y Ica y l'uno")],
    "links": [
        ("[[Lima]], [[Capital (política)|capital]]es, [[:Archivo:a.jpg]]", "Lima, capitales, Archivo:a.jpg"),
        ("[[wikt:sol|sol]] y [http://a.b/c el sitio] y [http://a.b/c]", "sol y el sitio y"),
        ("Uno[[en:One]][[zh-min-nan:Chi̍t]] dos", "Uno dos"),
    ],
    "files": [
        ("[[Archivo:a.jpg|thumb|Un [[b|c]] y {{lang|la|d}}]]Texto", "Texto"),
        ("[[archivo:a.jpg]][[Imagen:b.png|c]][[File:d]][[Image:e|[[f|[[g]]]]]]Texto", "Texto"),
        ("Texto\n[[Categoría:Uno]]\n[[Category:Dos|tres]]", "Texto"),
    ],
    "references": [
        ("Uno<ref>[[a]] {{cita libro|b}}</ref> dos<ref name=x/> tres<ref name='y' >\n* a\n</ref>.", "Uno dos tres."),
        ("Uno<REF>a<br/>b</REF>.\n<references>\n<ref name=a>b</ref>\n</references>", "Uno."),
    ],
    "tables": [
        ("Uno\n{| class=x\n|-\n| a\n|\n{|\n| b\n|}\n|}\nDos", "Uno\nDos"),
        ("Uno<table><tr><td>a</td></tr></table> dos", "Uno dos"),
        ("{{Ficha\n| a = {{Otra|b={{lang|la|c}}}}\n| d = [[Archivo:e.jpg|f]]\n}}\nTexto", "Texto"),
    ],
    "elements": [
        ("<gallery>\nArchivo:a.jpg|b\n</gallery>Texto<!-- a\nb -->", "Texto"),
        ("Uno<timeline>\na\n</timeline><score>b</score><mapframe a=1 /> dos", "Uno dos"),
        ("Uno <nowiki>dos * tres</nowiki> <small>cuatro</small> <span style='a'>cinco</span>", "Uno dos * tres cuatro cinco"),
        ("La masa es <math>E=mc^2</math> y <math>\\frac{a}{b}</math> no", "La masa es E=mc^2 y no"),
        ("Uno<br>dos", "Uno\ndos"),
    ],
    "lists": [("* Uno\n** Dos\n#Tres\n: Cuatro\n; Cinco\n----\nSeis", "Uno\nDos\nTres\nCuatro\nCinco\nSeis")],
    "entities": [("Uno&nbsp;&mdash; dos &amp;lt; tres", "Uno — dos < tres")],
    "quantities": [
        ("{{convertir|5|km}} y {{convertir|5|a|7|km2|mi2}} y {{unidad|3|m}}", "5 km y 5 a 7 km² y 3 m"),
        ("{{Convert|40|C|F|0}}, {{formatnum:1234}}, {{frac|1|2}}, {{frac|3|1|2}}", "40 °C, 1234, 1/2, 3 1/2"),
    ],
    "dates": [
        ("el {{fecha|12|10|1492}}, el {{fecha|1492|10|12}}, {{fecha|10|1492}}, {{fecha|1492}}",
         "el 12 de octubre de 1492, el 12 de octubre de 1492, octubre de 1492, 1492"),
        ("el {{siglo|XVI||s}}, el {{siglo|V|a|s}}, {{siglo|XX}}, {{AC|331}}, {{dC|98}}",
         "el siglo XVI, el siglo V a. C., XX, 331 a. C., 98 d. C."),
    ],
    "names": [
        ("{{lang|la|Plus ultra}} ({{lang-en|Further beyond}}), {{nihongo|Tokio|東京|Tōkyō}}",
         "Plus ultra (en inglés Further beyond), Tokio (東京 Tōkyō)"),
        ("{{Nowrap|10 de mayo}} {{abbr|EE. UU.|Estados Unidos}} {{Plantilla:esd|uno dos}} {{_lang_|la| tres }}",
         "10 de mayo EE. UU. uno dos tres"),
        ("{{lang|la|[[a|b]]}} {{fecha|día=1|12|10|1492}}{{lang|1=la|2=c}}", "b 12 de octubre de 1492c"),
    ],
    "quotations": [("Dijo:\n{{cita|Sólo sé que {{lang|la|nada}} sé.|Sócrates}}\nY calló.", "Dijo:\nSólo sé que nada sé.\nY calló.")],
    "unknown": [
        ("Tiene una superficie de {{medida|5 km|x=1}}. Es grande{{cita requerida}}.", "Tiene una superficie de 5 km. Es grande."),
        ("{{#if:a|sí|no}} {{#if:|sí|no}} {{PAGENAME}}{{DEFAULTSORT:a}}{{{1|def}}}{{{2}}}", "sí no def"),
    ],
    "broken": [("Uno {{lang|la dos", "Uno lang|la dos"), ("Uno [[dos", "Uno dos"), ("{|\n| uno", "| uno"), ("Uno <ref>dos", "Uno dos")],
}  # fmt: skip


@pytest.mark.parametrize(("source", "text"), [pair for pairs in CASES.values() for pair in pairs])
def test_wikitext_leaves_the_text_that_shows(source: str, text: str) -> None:
    assert Cleaner().clean(plain_text(source))[0] == text


def test_the_names_are_the_wikis_own() -> None:
    dialect = Dialect.of_namespaces([(6, "Fitxer"), (14, "Clase_de_cosa"), (0, "")], ["#REDIRECCIO"])
    source = "[[Fitxer:a.jpg|b]][[clase de cosa:c]][[File:d]]Texto"
    assert plain_text(source, dialect) == "Texto"
    assert plain_text(source, SPANISH) != "Texto"
    assert is_redirect("#redireccio [[a]]", dialect)
    assert not is_redirect("#redireccio [[a]]", SPANISH)


@pytest.mark.parametrize("source", ["#REDIRECCIÓN [[a]]", " #redirect[[a]]", "# Redirección [[a]]", "#REDIRECT: [[a]]"])
def test_a_redirect_is_told(source: str) -> None:
    assert is_redirect(source)
    assert not is_redirect(f"Texto {source}")


@pytest.mark.parametrize(
    "source", ["{{desambiguación}}", "{{Plantilla:Desambiguacion|x}}", "{{ des }}", "{{Disambig}}"]
)
def test_a_disambiguation_page_is_told(source: str) -> None:
    assert is_disambiguation(f"'''Sol''' puede referirse a:\n* uno\n{source}")
    assert not is_disambiguation("{{Descripción|desambiguación}}")


@pytest.mark.parametrize(
    "text", ["Tiene una superficie de.", "Nació en, hijo de un herrero.", "Mide , y pesa .", "El río (de ) es"]
)
def test_a_hole_is_told(text: str) -> None:
    assert holes(text) >= 1
    assert holes("Nació en Lima, hijo de un herrero. Mide 3 m. Habla de él, y de ella, en 331 a. C.") == 0


def test_any_markup_ends_in_time() -> None:
    signs = [
        "{{",
        "}}",
        "{|",
        "|}",
        "[[",
        "]]",
        "<ref>",
        "</ref>",
        "''",
        "|",
        "\n",
        "a",
        "<nowiki>",
        "{{{",
        "}}}",
        "==",
    ]
    generator = random.Random(0)
    for _ in range(300):
        plain_text("".join(generator.choices(signs, k=200)))
    for sign in signs:
        plain_text(sign * 3000)
