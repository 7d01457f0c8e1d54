import itertools
import random
import time

import pytest

from minillm.corpus import Article, Cleaner
from minillm.corpus.cleaning import STEPS

CASES = {
    "mojibake": [
        ("educaciÃ³n en EspaÃ±a", "educación en España"),
        ("Bien «aquí».\nMal Â«aquÃ­Â».", "Bien «aquí».\nMal «aquí»."),
        ("una â€œcitaâ€\x9d", 'una "cita"'),
        ("educaci√≥n", "educación"),
        ("\x93cita\x94", '"cita"'),
    ],
    "html_entities": [
        ("Simon &amp; Schuster", "Simon & Schuster"),
        ("5 &lt; 6", "5 < 6"),
        ("&iquest;Qu&eacute;&#63;", "¿Qué?"),
        ("&#x41;&#160;B", "A B"),
        ("&amp;amp;eacute;", "é"),
        ("&#0;x&#xD800;", "�x�"),
    ],
    "control_characters": [
        ("foto\u00adsíntesis\u200b", "fotosíntesis"),
        ("\ufeffUno\r\nDos\rTres\u2028Cuatro", "Uno\nDos\nTres\nCuatro"),
        ("a\x00b\x07c\u200e", "abc"),
    ],
    "unicode_nfc": [("canio\u0301n, nin\u0303o, u\u0308", "canión, niño, ü"), ("o\u200b\u0301", "ó")],
    "markup": [
        ("'''Lima''' es ''la'' capital.", "Lima es la capital."),
        ("el [[río]] [[Amazonas (río)|Amazonas]]", "el río Amazonas"),
        (
            "a [[Archivo:x.jpg|thumb|el [[río]] {{a}}]]b [[Categoría:Ríos]][[en:River]][[:Categoría:Mar]]",
            "a b Categoría:Mar",
        ),
        ('a<ref name=x/> b<ref name="x">Pérez, {{cita|{{b}}}}\n(1999)</ref> c<!-- nota\nlarga --> d', "a b c d"),
        ("uno<br/>dos<p class='x'>tres</p>H<sub>2</sub>O <small>x</small>", "uno\ndos\ntres\nH2O x"),
        ("{{Ficha\n|a={{b|{c}}}\n|d={{{e|}}}\n}}\nTexto.", "Texto."),
        ('Antes.\n{| class="wikitable"\n|-\n| a || b\n{|\n|c\n|}\n|}\nDespués.', "Antes.\nDespués."),
        ("el [http://a.es sitio oficial] y [https://b.es]", "el sitio oficial y"),
        ("__TOC____NO_TOC__Texto.", "Texto."),
        ("* uno\n** dos\n# tres\n:cuatro\n: cinco\n*seis", "uno\ndos\ntres\n:cuatro\ncinco\nseis"),
    ],
    "trailing_sections": [
        ("Uno.\n== Referencias ==\n1. Libro\n=== Notas ===\nx", "Uno."),
        ("Uno.\n== Véase también ==\nOtro\n== Historia ==\nDos.\n==Enlaces externos==\nx", "Uno.\nDos."),
        ("Uno.\n=== Notas ===\nx\n=== Obra ===\nDos.", "Uno.\nDos."),
        ("Uno.\n== '''Notas y referencias''' ==\nx\n== Bibliografía ==\ny\n== Fuentes: ==\nz", "Uno."),
        ("Uno.\n== Lecturas adicionales ==\nx\n== Notas musicales ==\nDo.", "Uno.\nDo."),
        ("== Referencias ==\nx", ""),
    ],
    "headings": [("== A ==\nUno.\n\n=== B ===\n\n======C======\nDos.\r\n== D ==", "Uno.\nDos.")],
    "reference_marks": [
        ("Murió[1][2] en 1616[nota 2] [cita requerida].", "Murió en 1616."),
        ("así[1, 2][3–5] fue[¿quién?] [Síntesis inadecuada][n. 3]", "así fue"),
    ],
    "urls": [
        ("Véase https://es.wikipedia.org/wiki/Luna_(astro).", "Véase."),
        ("en www.ejemplo.es/a?b=1&c=2, (http://a.es) y <https://b.es>", "en, y"),
        ("dice «http://a.es/ñ»", "dice «»"),
    ],
    "empty_parentheses": [
        ("Atenas ( ) y Roma (, ) o (; ) o ([ ])", "Atenas y Roma o o"),
        ("Atenas (; 400 a. C.) y Roma (Roma, ; )", "Atenas (400 a. C.) y Roma (Roma)"),
    ],
    "quotes": [
        (
            "“Hola”, „adiós‟, «no» y ‘quizá’ de O’Higgins ‘‘doble’’",
            '"Hola", "adiós", «no» y \'quizá\' de O\'Higgins "doble"',
        )
    ],
    "dashes": [
        ("1939–1945, 10 – 12, 3—4, págs. 5‒6", "1939-1945, 10-12, 3-4, págs. 5-6"),
        ("a −5 °C, de –1,5 y (–2)", "a -5 °C, de -1,5 y (-2)"),
        ("Madrid–Lisboa – que es lento –, y –como ese–", "Madrid-Lisboa — que es lento —, y —como ese—"),
        ("uno -- dos --- tres ―cuatro―", "uno — dos — tres —cuatro—"),
        ("teórico‑práctico", "teórico-práctico"),
    ],
    "spaces": [
        ("Uno\u00a0 dos\t, (tres ) .  \n \n\n Cuatro\u2009: « cinco »", "Uno dos, (tres).\nCuatro: «cinco»"),
        ("¿ Qué ? ¡ Ah !", "¿Qué ? ¡Ah !"),
    ],
}
ASKED_FOR = {  # steps that are off unless asked for
    "dates": [
        ("el 12 de Marzo del 1998 y el 1º de MAYO", "el 12 de marzo de 1998 y el 1 de mayo"),
        (
            "(12-3-1998), 12.03.1998; 31/12/1999.",
            "(12 de marzo de 1998), 12 de marzo de 1998; 31 de diciembre de 1999.",
        ),
        ("Nació en Octubre 5, 1901.", "Nació en 5 de octubre de 1901."),
        ("el 7 de julio del año 2003", "el 7 de julio de 2003"),
        ("1998-03-12", "12 de marzo de 1998"),
    ],
    "numbers": [
        ("1.234.567 de 12,345,678 o 1'234'567", "1 234 567 de 12 345 678 o 1 234 567"),
        ("8.400 m, un 3,5 %", "8400 m, un 3,5 %"),
        ("8,400 m, un 3.5 %", "8400 m, un 3.5 %"),
        ("1.234,50 € o $1,234.50", "1234,50 € o $1234,50"),
        ("los 12\u00a0345 de 1939", "los 12 345 de 1939"),
    ],
}
KEPT = {  # what another reading is possible of, or what is no date or number
    "dates": [
        "12/03/98, 31/13/1998, 32/1/1998, 12/03-1998, 24-10, 1998-2004, 1998-3-12, v12.03.1998, 12.03.1998.5",
        "el 12 de marzo y el 3 de mayo de 1808; en marzo de 1998; 112 de marzo de 1998; 1/2/3/1998",
    ],
    "numbers": [
        "12.345 habitantes, pi es 3.142, 12,345",
        "12.345 y 3,5 y 3.5",
        "0.125 y 0,125 de 1.2.3, 1.234.5, 192.168.1.20, 1.234,567,891",
        "en 1492, en 1998 123 456 personas, el 7 123, 10:30, 1-2, 3/4, tel. 555 123-456, v1.234.567",
    ],
}

GOOD = [
    "«¿Qué?», dijo; 1.492,5 km (1492). El 59 % de 5'' y 3' 20''.",
    "El intervalo [1, 2] y [0, 1], la vocal [b] y [β], [sic] y [...], de [1984] y [T]odo.",
    "El polo (-) y el (+), main() y f(x), AT&T, Q&A y «D&D»; a&b;c.",
    "x^n + y^n = z^n, a == b, si a<b y b>c, n < p < 2n; {0,1} y {x|x > 0}.",
    "Sagitario A* y C# en .es o .mx… ¡Sí! —dijo—; 6,67 × 10^-11, teórico-práctico.",
    "L'Orientale, O'Daly, Hon'inbō, Q'eswachaka; ƒ y Γ, São Tomé, Île, Ångström, Ñuñoa, Â.",
    "La relación 1 : 5, a las 10:30; #1 en ventas; C:\\x; snake_case y __init__.",
    "Vio 2 -1 y 3 - 2; --ayuda es una opción.",
    "Línea uno.\nLínea dos: una lista.",
]


@pytest.mark.parametrize(("step", "text", "clean"), [(step, *case) for step, cases in CASES.items() for case in cases])
def test_each_step_removes_what_it_is_for(step: str, text: str, clean: str) -> None:
    result, removed = Cleaner().clean(text)
    assert result == clean
    assert sum(removed.values()) == len(text) - len(clean)
    if step not in ("quotes", "dashes", "mojibake"):
        assert removed[step] > 0


@pytest.mark.parametrize("text", GOOD)
def test_good_text_stays_as_it_is(text: str) -> None:
    assert Cleaner().clean(text)[0] == text


@pytest.mark.parametrize(
    ("step", "text", "written"), [(step, *case) for step, cases in ASKED_FOR.items() for case in cases]
)
def test_dates_and_numbers_are_written_in_one_form_where_that_is_asked_for(step: str, text: str, written: str) -> None:
    asked = Cleaner(**{step: True})
    assert asked.clean(text)[0] == written == asked.clean(written)[0]
    assert Cleaner().clean(text)[0] == text.replace("\u00a0", " ")
    assert step not in Cleaner().clean(text)[1]


@pytest.mark.parametrize(("step", "text"), [(step, text) for step, texts in KEPT.items() for text in texts])
def test_what_may_be_meant_otherwise_stays(step: str, text: str) -> None:
    assert Cleaner(**{step: True}).clean(text)[0] == text


@pytest.mark.parametrize("step", [step.__name__ for step in STEPS if step.__name__ in CASES])
def test_each_step_can_be_switched_off(step: str) -> None:
    text = CASES[step][0][0]
    assert Cleaner(**{step: False}).clean(text)[0] != Cleaner().clean(text)[0]
    assert step not in Cleaner(**{step: False}).clean(text)[1]


def test_the_sample_loses_nothing_but_headings_and_blank_lines(sample: list[Article]) -> None:
    for article in sample:
        lines = [line for line in article.text.split("\n") if line and not line.startswith("==")]
        assert Cleaner().clean(article.text)[0] == "\n".join(lines).replace("–1,5", "-1,5")


@pytest.mark.parametrize("cleaner", [Cleaner(), Cleaner(dates=True, numbers=True)], ids=["default", "all"])
def test_clean_text_stays_as_it_is(sample: list[Article], cleaner: Cleaner) -> None:
    nasty = [text for cases in (CASES | ASKED_FOR).values() for text, _ in cases]
    nasty += ["".join(pair) for pair in itertools.permutations(nasty, 2)][::7]
    for text in [article.text for article in sample] + nasty:
        clean, _ = cleaner.clean(text)
        assert cleaner.clean(clean) == (clean, dict.fromkeys(cleaner.clean("")[1], 0))


def test_any_text_comes_to_an_end_and_stays() -> None:
    signs = [
        "[[",
        "]]",
        "[",
        "]",
        "{{",
        "}}",
        "{",
        "}",
        "{|",
        "|}",
        "|",
        "''",
        "'''",
        "’",
        "“",
        "<ref>",
        "</ref>",
        "<br>",
    ]
    signs += [
        "&amp;",
        "&lt;",
        "&",
        ";",
        "#38;",
        "==",
        "== Notas ==",
        "\n",
        "\n*",
        " ",
        "(",
        ")",
        ",",
        ":",
        ".",
        "–",
        "--",
    ]
    signs += [
        "http://a.es",
        "www.",
        "1",
        "2",
        "a",
        "Ã",
        "\x93",
        "±",
        "\xad",
        "\u0301",
        "\r",
        "__TOC__",
        "<!--",
        "-->",
        "»",
    ]
    chooser = random.Random(0)
    for _ in range(1500):
        text = "".join(chooser.choices(signs, k=chooser.randrange(1, 40)))
        clean, _ = Cleaner().clean(text)
        assert Cleaner().clean(clean)[0] == clean


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "[[",
        "{|\n",
        "<ref>",
        "''",
        "(",
        "([",
        "&amp;",
        "<!--",
        "[",
        "www.",
        "== ",
        " ,",
        "{{{",
        "\n*",
        "’",
        "Ã",
        "[1",
    ],
)
def test_a_flood_of_openings_costs_no_more_than_seconds(text: str) -> None:
    start = time.perf_counter()
    Cleaner().clean(text * 5000)
    assert time.perf_counter() - start < 5
