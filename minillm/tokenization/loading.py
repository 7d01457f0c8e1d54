"""Loading a saved tokenizer of either kind."""

from minillm.errors import OutsideError
from minillm.tokenization.bpe import BPETokenizer
from minillm.tokenization.tokenizer import Tokenizer, parse
from minillm.tokenization.word import WordTokenizer


def load_tokenizer(json_text: str) -> Tokenizer:
    """Return the tokenizer of a JSON from `Tokenizer.to_json`, with its class.

    Args:
        json_text: the content of a tokenizer.json.

    Raises:
        OutsideError: the text is damaged, or not a tokenizer of this package.
    """
    model = type(parse(json_text).model)
    for kind in (WordTokenizer, BPETokenizer):
        if kind.model is model:
            return kind.from_json(json_text)
    raise OutsideError(f"not a tokenizer of miniLLM: a {model.__name__} model, where WordLevel or BPE was expected")
