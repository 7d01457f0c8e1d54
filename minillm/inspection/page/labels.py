"""The page's words, in Spanish and English."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["es", "en"]


@dataclass(frozen=True)
class Labels:
    """All words of the page in one language; names in braces are filled in."""

    language: Language
    title: str
    introduction: str
    other_language: str
    about: str
    context: str
    kinds: Mapping[str, str]
    """Of vocabularies, by the tokenizer's kind."""
    tabs: tuple[str, str, str, str]
    """Write, read, attend, audit."""
    model: str
    prompt: str
    prompt_example: str
    write: str
    stop: str
    go_on: str
    settings: str
    temperature: str
    top_k: str
    top_p: str
    seed: str
    max_new_tokens: str
    writing: str
    written: str
    ended: str
    stopped: str
    hint_click: str
    written_text: str
    alternatives_at: str
    alternative: str
    probability: str
    drawn_from: str
    end_of_article: str
    chosen: str
    read: str
    text: str
    text_example: str
    legend: str
    details: str
    hint_details: str
    unknown: str
    bits_per_byte: str
    unigram: str
    bigram: str
    no_baselines: str
    attend: str
    sentence: str
    layer: str
    head: str
    show: str
    attention_of: str
    looks_back: str
    looks_ahead: str
    cell: str
    first_token: str
    verdicts: Mapping[str, str]
    """By `minillm.evaluation.schema.Verdict`."""
    not_trusted: str
    marks: Mapping[str, str]
    """What a screen reader says of a check, by verdict."""
    checks: Mapping[str, str]
    """The names of the checks."""
    not_evaluated: str
    report: str
    empty: str
    not_unicode: str
    too_long: str
    too_large: str
    too_many_tokens: str
    full: str
    nothing_to_go_on: str
    no_layer: str
    failed: str


ES = Labels(
    language="es",
    title="Por dentro de un modelo de lenguaje",
    introduction="Un modelo de lenguaje calcula, tras cada palabra, cómo de probable es cada palabra siguiente. "
    "Aquí se ve cómo.",
    other_language="English",
    about="{network}, {parameters} parámetros, vocabulario {kind} de {size}",
    context=", {tokens} trozos de contexto",
    kinds={"word": "de palabras", "bpe": "BPE"},
    tabs=("Escribir", "Leer", "Atender", "Auditar"),
    model="Modelo",
    prompt="Cómo empieza el texto",
    prompt_example="En el año 1492,",
    write="Escribir",
    stop="Parar",
    go_on="Seguir",
    settings="Ajustes",
    temperature="Temperatura (0: siempre lo más probable)",
    top_k="Top-k (0: todas)",
    top_p="Top-p (1: todas)",
    seed="Semilla (vacía: otro texto cada vez)",
    max_new_tokens="Palabras o trozos, como máximo",
    writing="Escribiendo…",
    written="{tokens} trozos en {seconds} s: {speed} por segundo, el primero tras {first} ms.",
    ended="El modelo termina aquí el artículo.",
    stopped="Parado.",
    hint_click="Pulse una palabra para ver qué otras podían ir ahí; elija una, y el texto sigue desde ella. "
    "Con el teclado, las flechas van de palabra en palabra. ␣ es un espacio.",
    written_text="El texto, palabra por palabra",
    alternatives_at="Qué podía ir en lugar de «{token}»",
    alternative="Seguir con «{token}»: probabilidad {probability}",
    probability="según el modelo",
    drawn_from="tras los ajustes",
    end_of_article="fin del artículo",
    chosen="elegida",
    read="Leer",
    text="Un texto",
    text_example="Madrid es la capital de España y de la Comunidad de Madrid.",
    legend="Sorpresa en bits",
    details="«{token}»: {bits} bits, puesto {rank}, probabilidad {probability}. Más probables: {alternatives}",
    hint_details="Señale o toque una palabra para ver sus bits, su puesto y qué era más probable. "
    "Con el teclado, las flechas van de palabra en palabra. ␣ es un espacio.",
    unknown="desconocida: el modelo lee [UNK]",
    bits_per_byte="Bits por byte de este texto (menos es mejor)",
    unigram="unigramas (cuenta palabras)",
    bigram="bigramas (cuenta pares de palabras)",
    no_baselines="El texto con que aprendió no está a mano: faltan los modelos de unigramas y bigramas.",
    attend="Atender",
    sentence="Una frase",
    layer="Capa",
    head="Cabeza",
    show="Mostrar",
    attention_of="Cada fila, una palabra: cuánto mira a cada palabra de las columnas. Capa {layer}, cabeza {head}.",
    looks_back="Ninguna palabra mira a las que vienen después: sobre la diagonal no hay nada.",
    looks_ahead="¡Fuga! El {share} del peso está en palabras que vienen después: el modelo ve lo que debe adivinar.",
    cell="«{row}» mira a «{column}»: {weight}",
    first_token="inicio",
    verdicts={
        "fault": "Las cifras de su evaluación no son de fiar",
        "weak": "Las cifras de su evaluación son de fiar, y dicen que el modelo aprendió poco",
        "fine": "Las cifras de su evaluación son de fiar: ninguna comprobación encontró un fallo",
    },
    not_trusted="Las cifras de este modelo no son de fiar; la pestaña «Auditar» dice por qué.",
    marks={"fault": "fallo", "weak": "débil", "fine": "bien", "none": "sin comprobar"},
    checks={
        "determinism": "Determinismo",
        "causality": "Causalidad",
        "alignment": "Alineación",
        "contamination": "Contaminación",
        "memorization": "Memorización",
        "splits": "Particiones",
        "tokenizer": "Vocabulario",
        "inflation": "Cifras infladas",
        "position": "Posición",
        "selection": "Selección",
        "plausibility": "Verosimilitud",
    },
    not_evaluated="Este modelo no está evaluado. Así se evalúa: {command}",
    report="El informe entero",
    empty="Aquí no hay texto; escriba al menos una palabra.",
    not_unicode="El texto tiene caracteres rotos, que no son de ninguna escritura; escríbalo de nuevo.",
    too_long="El texto tiene {characters} caracteres; aquí caben {most}.",
    too_large="Es demasiado texto de una vez; aquí caben {most} caracteres.",
    too_many_tokens="El texto tiene {tokens} trozos; aquí caben {most}. Acórtelo.",
    nothing_to_go_on="Todavía no hay texto que seguir; pulse antes «Escribir».",
    full="El texto ya tiene {tokens} trozos, y aquí no caben más.",
    no_layer="Este modelo tiene {layers} capas con {heads} cabezas cada una.",
    failed="Algo falló al calcularlo; el terminal dice qué.",
)

EN = Labels(
    language="en",
    title="Inside a language model",
    introduction="After each word a language model computes how probable every next word is. Here you can watch it.",
    other_language="Español",
    about="{network}, {parameters} parameters, {kind} vocabulary of {size}",
    context=", {tokens} tokens of context",
    kinds={"word": "word", "bpe": "BPE"},
    tabs=("Write", "Read", "Attend", "Audit"),
    model="Model",
    prompt="How the text begins",
    prompt_example="En el año 1492,",
    write="Write",
    stop="Stop",
    go_on="Go on",
    settings="Settings",
    temperature="Temperature (0: always the most probable)",
    top_k="Top-k (0: all)",
    top_p="Top-p (1: all)",
    seed="Seed (empty: another text each time)",
    max_new_tokens="Tokens at most",
    writing="Writing…",
    written="{tokens} tokens in {seconds} s: {speed} per second, the first after {first} ms.",
    ended="Here the model ends the article.",
    stopped="Stopped.",
    hint_click="Choose a word to see which others could have stood there; choose one of them, and the text goes on "
    "from it. On a keyboard the arrows go from word to word. ␣ is a space.",
    written_text="The text, word by word",
    alternatives_at="What could have stood in place of “{token}”",
    alternative="Go on with “{token}”: probability {probability}",
    probability="by the model",
    drawn_from="after the settings",
    end_of_article="end of the article",
    chosen="chosen",
    read="Read",
    text="A text",
    text_example="Madrid es la capital de España y de la Comunidad de Madrid.",
    legend="Surprisal in bits",
    details="“{token}”: {bits} bits, rank {rank}, probability {probability}. Most probable: {alternatives}",
    hint_details="Point at a word, or tap it, for its bits, its rank and what was more probable. "
    "On a keyboard the arrows go from word to word. ␣ is a space.",
    unknown="unknown: the model reads [UNK]",
    bits_per_byte="Bits per byte of this text (less is better)",
    unigram="unigrams (counts words)",
    bigram="bigrams (counts pairs of words)",
    no_baselines="The text that it learned from is not at hand: the unigram and bigram models are missing.",
    attend="Attend",
    sentence="A sentence",
    layer="Layer",
    head="Head",
    show="Show",
    attention_of="Each row is a word: how much it looks at each word of the columns. Layer {layer}, head {head}.",
    looks_back="No word looks at those that come after it: there is nothing above the diagonal.",
    looks_ahead="A leak! {share} of the weight is on words that come later: the model sees what it has to guess.",
    cell="“{row}” looks at “{column}”: {weight}",
    first_token="start",
    verdicts={
        "fault": "The figures of its evaluation are not to be trusted",
        "weak": "The figures of its evaluation can be believed, and say that little was learned",
        "fine": "The figures of its evaluation can be believed: no check found a fault",
    },
    not_trusted="The figures of this model are not to be trusted; the tab “Audit” says why.",
    marks={"fault": "fault", "weak": "weak", "fine": "fine", "none": "not checked"},
    checks={
        "determinism": "Determinism",
        "causality": "Causality",
        "alignment": "Alignment",
        "contamination": "Contamination",
        "memorization": "Memorization",
        "splits": "Splits",
        "tokenizer": "Vocabulary",
        "inflation": "Inflated figures",
        "position": "Position",
        "selection": "Selection",
        "plausibility": "Plausibility",
    },
    not_evaluated="This model is not evaluated. This evaluates it: {command}",
    report="The whole report",
    empty="There is no text here; write at least a word.",
    not_unicode="The text has broken characters, which belong to no writing; type it again.",
    too_long="The text has {characters} characters; there is room for {most}.",
    too_large="That is too much text at once; there is room for {most} characters.",
    too_many_tokens="The text has {tokens} tokens; there is room for {most}. Shorten it.",
    nothing_to_go_on="There is no text yet to go on with; choose “Write” first.",
    full="The text has {tokens} tokens already, and there is no room for more.",
    no_layer="This model has {layers} layers with {heads} heads each.",
    failed="Something went wrong; the terminal says what.",
)

LABELS: Mapping[Language, Labels] = {"es": ES, "en": EN}


def preferred(accepted: str) -> Language:
    """Return a browser's preferred language.

    Args:
        accepted: its Accept-Language header.

    >>> preferred("ca,es;q=0.8,en;q=0.5"), preferred("de, en-GB;q=0.7, es;q=0.3"), preferred("")
    ('es', 'en', 'en')
    """
    wishes: list[tuple[float, Language]] = []
    for wish in accepted.split(","):
        name, _, quality = wish.strip().partition(";q=")
        for language in LABELS:
            if name.lower().partition("-")[0] == language:
                try:
                    wishes.append((float(quality or 1), language))
                except ValueError:
                    continue
    return max(wishes, key=lambda wish: wish[0], default=(0.0, "en"))[1]
