import re
import subprocess
import sys

import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from minillm.corpus import Article, Cleaner, QualityFilter
from minillm.corpus.quality import _identifier, is_spanish, language_of
from minillm.errors import SettingError

PROSE = (
    "Mercurio es el planeta más cercano al Sol y el más pequeño del sistema solar. Carece de satélites y gira tan "
    "despacio que un día suyo dura más que su año; la cara que mira al Sol pasa de los cuatrocientos grados."
)
OTHER_LANGUAGES = {
    "pt": "A cidade de Lisboa é a capital de Portugal e fica na margem norte do rio Tejo. Foi fundada há mais de dois "
    "mil anos e tornou-se o centro de um império marítimo. Em 1755 um terramoto destruiu grande parte da cidade.",
    "ca": "Barcelona és una ciutat i metròpoli a la costa mediterrània de la península Ibèrica. És la capital de "
    "Catalunya, així com de la comarca del Barcelonès. Amb més d'un milió i mig d'habitants, és la més poblada.",
    "gl": "Santiago de Compostela é a capital de Galicia. A cidade, situada na provincia da Coruña, é a sede do "
    "goberno autónomo galego e un dos máis importantes núcleos de peregrinación cristiá do mundo.",
    "ast": "Uviéu ye la capital del Principáu d'Asturies y una de les ciudaes más importantes del país. Foi fundada "
    "nel sieglu VIII polos monxos Máximu y Fromestanu, y depués foi la sede de los reis asturianos. La ciudá tien güei "
    "más de doscientos mil habitantes.",
    "it": "Roma è la capitale d'Italia. Secondo la tradizione fu fondata nel 753 a.C. da Romolo. Nel corso della sua "
    "storia è stata la capitale dell'Impero romano ed è oggi il comune più popoloso del paese.",
    "en": "London is the capital of England and the United Kingdom. It stands on the River Thames in south-east "
    "England and has been a major settlement for nearly two millennia.",
    "fr": "Paris est la capitale de la France. Située au cœur du Bassin parisien, sur une boucle de la Seine, la ville "
    "est peuplée depuis l'Antiquité par les Parisii et compte plus de deux millions d'habitants.",
}


def reason(title: str, text: str, settings: QualityFilter | None = None) -> str | None:
    return (settings or QualityFilter()).reason(title, text, Cleaner().clean(text)[0])


def test_the_sample_is_kept_whole(sample: list[Article]) -> None:
    assert {reason(article.title, article.text) for article in sample} == {None}


@pytest.mark.parametrize("text", ["#REDIRECT [[Sol]]", "#REDIRECCIÓN [[Sol]]", " # redireccion[[Sol]]\n" + PROSE])
def test_a_redirect_is_dropped(text: str) -> None:
    assert reason("Astro rey", text) == "redirect"
    assert reason("Astro rey", text, QualityFilter(redirects=False)) != "redirect"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Mercurio (desambiguación)", PROSE),
        ("Mercurio", "Mercurio puede referirse a:\n\n* Mercurio, un planeta;\n* Mercurio, un dios."),
        (
            "Mercurio",
            "El término Mercurio puede hacer referencia a uno de estos:\nMercurio, un planeta.\nMercurio, un dios.",
        ),
        ("Mercurio", PROSE + "\n{{Desambiguación}}"),
    ],
)
def test_a_disambiguation_is_dropped(title: str, text: str) -> None:
    assert reason(title, text) == "disambiguation"
    assert reason(title, text, QualityFilter(disambiguations=False)) != "disambiguation"


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Anexo:Ríos de España", PROSE),
        ("Lista de ríos", PROSE),
        (
            "Ríos",
            PROSE
            + "\n"
            + "\n".join(f"* El río {n} nace en el monte {n} y desemboca en el mar, lejos." for n in range(9)),
        ),
        ("Ríos", "Estos son algunos:\n" + "\n".join(f"Río número {n} (España)" for n in range(30))),
    ],
)
def test_a_list_is_dropped(title: str, text: str) -> None:
    assert reason(title, text) == "list"
    assert reason(title, text, QualityFilter(lists=False, language=None)) is None


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("La lista de Schindler", PROSE),
        ("Referirse", "El nombre puede referirse a dos cosas: el planeta y el dios. " + PROSE),
        ("Fuentes", PROSE * 2 + "\n== Referencias ==\n" + "\n".join(f"* Autor {n} (1999): Título." for n in range(40))),
        ("Corto", "Hola, mundo."),
        ("Con lista", PROSE * 2 + "\n* uno\n* dos\n* tres"),
        (
            "Título inglés",
            "«The Lord of the Rings: The Return of the King» fue dirigida por Peter Jackson en el año 2003.",
        ),
        ("Partido", re.sub(r"(.{72}) ", r"\1\n", PROSE)),
    ],
)
def test_prose_is_kept(title: str, text: str) -> None:
    assert reason(title, text) is None


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_other_languages_are_dropped(language: str) -> None:
    text = OTHER_LANGUAGES[language]
    assert reason("Ciudad", text) == "not Spanish"
    assert reason("Ciudad", text * 20) == "not Spanish"
    assert reason("Ciudad", text, QualityFilter(language=None)) is None


def test_slices_of_100_words_of_the_sample_are_spanish(sample: list[Article]) -> None:
    assert all(is_spanish(" ".join(article.text.split()[50:150])) for article in sample)


def test_a_spanish_article_with_a_foreign_quotation_is_kept_and_one_mostly_foreign_dropped() -> None:
    assert is_spanish(PROSE * 3 + OTHER_LANGUAGES["en"])
    assert not is_spanish(PROSE + OTHER_LANGUAGES["en"] * 6)


def test_the_language_model_is_loaded_on_first_use_only() -> None:
    code = "import minillm.corpus.quality as q; assert q._identifier.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_any_language_can_be_asked_for(language: str) -> None:
    if language == "ast":
        with pytest.raises(SettingError, match=r"^language=ast: must be auto \(.*null.*one of af am .* es .* fr "):
            QualityFilter(language=language)
        return
    asked = QualityFilter(language=language)
    assert reason("Ciudad", OTHER_LANGUAGES[language], asked) is None
    assert reason("Ciudad", PROSE, asked) == "other language"


def test_the_language_of_most_texts_is_found_and_that_of_a_single_one_not_asked_for() -> None:
    french = [OTHER_LANGUAGES["fr"]] * 3
    assert language_of([*french, PROSE, "Corto."]) == ("fr", 0.75)
    assert language_of(["Corto.", ""]) is None
    with pytest.raises(ValueError, match="auto is for a corpus"):
        QualityFilter(language="auto").reason("Ville", french[0], french[0])


def test_the_language_is_judged_by_the_probabilities_of_the_library_as_it_comes(sample: list[Article]) -> None:
    untouched = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    texts = [*OTHER_LANGUAGES.values(), PROSE, *(article.text[:1200] for article in sample[:60])]
    strange = ["", "a", "\0", "の", "\ud800", "LA CIUDAD FUE FUNDADA", "canio\u0301n", "0" * 500, "😀" * 50, PROSE[:5]]
    for text in [*texts, *strange]:
        ranks = dict(untouched.rank(text))
        for code in "es", "fr":
            assert _identifier().probability(code, text) == pytest.approx(ranks[code], rel=1e-4, abs=1e-9)
