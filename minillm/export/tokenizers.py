"""Tokenizers in other programs' formats, and theirs in this project's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minillm.errors import MiniLLMError, OutsideError, SettingError
from minillm.tokenization import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Tokenizer, load_tokenizer
from minillm.tokenization.tokenizer import parse

# Without [UNK]: decoding without special tokens would hide unknown words.
DECLARED = (PAD, BOS, EOS)


def to_json(tokenizer: Tokenizer) -> str:
    """Return a ``tokenizer.json`` that puts [BOS] first and leaves special tokens out on decoding.

    The rest is the tokenizer itself. [EOS] is not added: a prompt has none.
    """
    state = json.loads(tokenizer.to_json())
    state["added_tokens"] = [
        {
            "id": special,
            "content": SPECIAL_TOKENS[special],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for special in DECLARED
    ]
    first = {"SpecialToken": {"id": SPECIAL_TOKENS[BOS], "type_id": 0}}
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            SPECIAL_TOKENS[BOS]: {"id": SPECIAL_TOKENS[BOS], "ids": [BOS], "tokens": [SPECIAL_TOKENS[BOS]]}
        },
    }
    return json.dumps(state, ensure_ascii=False, indent=1)


def settings(max_length: int) -> dict[str, Any]:
    """Return the ``tokenizer_config.json`` for transformers.

    With ``split_special_tokens`` the text "[EOS]" is plain text, as in training.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": SPECIAL_TOKENS[special] for role, special in (("bos", BOS), ("eos", EOS), ("pad", PAD))},
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "padding_side": "left",
    }


@dataclass(frozen=True)
class Opened:
    """A tokenizer and its ids in the folder.

    Attributes:
        tokenizer: in this project's form.
        embedded: for each id, the folder's id with its embedding.
        predicted: for each id, the folder's id with its row of the head; None: the folder lacks the token, and the
            model must not predict it.
    """

    tokenizer: Tokenizer
    embedded: list[int]
    predicted: list[int | None]


def open_tokenizer(text: str, said: Mapping[str, Any], config: Mapping[str, Any]) -> Opened:
    """Return the tokenizer of a folder.

    This project's tokenizers keep their ids. Another byte-level BPE gets ids 0 to 3 for [PAD], [UNK], [BOS] and [EOS],
    and keeps the order and the text of all other tokens.

    Args:
        text: content of ``tokenizer.json``.
        said: ``tokenizer_config.json``.
        config: ``config.json``.

    Raises:
        SettingError: it is no byte-level BPE, or has no token for a text's end.
    """
    parse(text)
    state = json.loads(text)
    plain = {**state, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    model = plain["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict) and tuple(sorted(vocab, key=vocab.__getitem__)[:4]) == SPECIAL_TOKENS:
        try:
            tokenizer = load_tokenizer(json.dumps(plain))
            ids = list(range(len(tokenizer)))
            return Opened(tokenizer, ids, list(ids))
        except MiniLLMError:
            pass
    if model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        raise SettingError(
            "tokenizer.json", model.get("type"), "is another kind of tokenizer; a byte-level BPE is read"
        )
    if "ByteLevel" not in json.dumps([state.get("pre_tokenizer"), state.get("decoder")]) or model.get("byte_fallback"):
        raise SettingError("tokenizer.json", "BPE", "does not work on bytes; a byte-level BPE is read")
    added = {token["content"]: token["id"] for token in state.get("added_tokens") or []}
    known = {**vocab, **added}
    roles = {role: _role(role, said, config, known) for role in ("pad", "unk", "bos", "eos")}
    end = roles["eos"]
    if end is None:
        advice = "names no token that ends a text (eos_token), which training and writing need"
        raise SettingError("tokenizer_config.json", "eos_token", advice)
    begin = roles["bos"]
    own = {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS}
    taken: dict[int, int] = {EOS: end}
    for role in "bos", "pad", "unk":
        old = roles[role]
        if old is not None and old not in taken.values():
            taken[own[role]] = old
    # Without a token for the beginning, the end, which separates texts, takes its place.
    embedded = [taken.get(special, begin if special == BOS and begin is not None else end) for special in range(4)]
    predicted: list[int | None] = [taken.get(special) for special in range(4)]
    rest = sorted((old, token) for token, old in known.items() if old not in taken.values())
    clash = next((token for _, token in rest if token in SPECIAL_TOKENS), None)
    if clash is not None:
        raise SettingError("tokenizer.json", clash, "is a token with another role there than here")
    if len({old for old, _ in rest}) != len(rest):
        raise SettingError("tokenizer.json", "vocab", "gives one id to several tokens")
    embedded += [old for old, _ in rest]
    predicted += [old for old, _ in rest]
    model["vocab"] = {
        **{token: number for number, token in enumerate(SPECIAL_TOKENS)},
        **{token: number for number, (_, token) in enumerate(rest, start=4)},
    }
    model["unk_token"] = None
    try:
        return Opened(load_tokenizer(json.dumps(plain)), embedded, predicted)
    except OutsideError as error:
        raise SettingError("tokenizer.json", "BPE", f"cannot be used: {error}") from error


def _role(role: str, said: Mapping[str, Any], config: Mapping[str, Any], known: Mapping[str, int]) -> int | None:
    """Return the id of a folder's token for a role; None: it has none."""
    token = said.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str):
        return known.get(token)
    if (usual := SPECIAL_TOKENS[("pad", "unk", "bos", "eos").index(role)]) in known:
        return known[usual]
    if f"{role}_token" in said:
        return None  # it says null
    number = config.get(f"{role}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) and number in known.values() else None
