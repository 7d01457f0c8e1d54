"""What the terminal, the report and the model card call a split's figures, and how they write them."""

from typing import NamedTuple


class Label(NamedTuple):
    """A figure's name for people, and the format of its value."""

    text: str
    form: str


# Bits per byte leads: it alone compares across vocabularies.
LABELS = {
    "bits_per_byte": Label("bits per byte", ".4f"),
    "perplexity": Label("perplexity", ",.2f"),
    "accuracy": Label("accuracy", ".1%"),
    "unk_rate": Label("share of [UNK]", ".1%"),
    "accuracy_without_unknown": Label("accuracy without [UNK]", ".1%"),
    "loss": Label("loss", ".4f"),
    "bleu": Label("bleu", ".4f"),
    "prediction_bias": Label("prediction bias", "+,.1f"),
}
# The figures of text with unknown words, which a BPE vocabulary has none of.
OF_UNKNOWN_WORDS = ("unk_rate", "accuracy_without_unknown")
EVALUATED = ("bits_per_byte", "perplexity", "accuracy", *OF_UNKNOWN_WORDS, "loss")
LOGGED = ("bits_per_byte", "loss", "perplexity", "accuracy", "bleu", "prediction_bias")
