"""Anybody's language model in this project's terms: [PAD] is 0, [UNK] 1, [BOS] 2, [EOS] 3, then come its other tokens.

So every figure, check and plot that there is for a model of this project works on any other. What a model lacks is made
up for so that its figures stay code lengths of the whole text, comparable across vocabularies:

- Without a token that begins a text its [EOS] stands there, as between the documents that such models learn from; and
  where it has neither, the first token of a text is paid for at ln V nats, as if nothing were known about it.
- Without an [EOS] the end of a text is not predicted.
"""

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from minillm.configuration import resolve
from minillm.errors import MiniLLMError, OutsideError, SettingError
from minillm.generation import Sampling, generate_tokens
from minillm.language_model import LanguageModel, load
from minillm.numerics import all_finite
from minillm.tokenization import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, Tokenizer
from minillm.tokenization.tokenizer import Encoded

log = logging.getLogger(__name__)

NEVER = -1e30
"""The logit of a token that the network does not know; finite, so that differences of logits stay numbers."""

LONGEST = 1024
"""Tokens of context at most, where nothing else is said: a row of logits over 150,000 tokens takes 600 MB then."""

LOGITS_AT_ONCE = 2**27  # 512 MiB: bounds the memory
FAILS = "fails on ids of shape"
INSTALL = "pip install -e '.[audit]'"
# Where configurations of transformers say how many places there are.
PLACES = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len", "seq_length")


class Renumbering:
    """A model's ids and this project's.

    Args:
        size: V, the logits of a place.
        begin: the model's token that a text begins with; None: it has none.
        end: the one that a text ends with; None: none. It may be the same.
        unknown: the one for what is not in the vocabulary; None: none.
        padding: what is put where there is no token; None: any.
    """

    def __init__(
        self,
        size: int,
        begin: int | None = None,
        end: int | None = None,
        unknown: int | None = None,
        padding: int | None = None,
    ) -> None:
        for name, token in ("begin", begin), ("end", end), ("unknown", unknown), ("padding", padding):
            if token is not None and not 0 <= token < size:
                raise SettingError(f"{name}_id", token, f"is no token: the network gives logits of {size:,}")
        self.size, self.begins, self.ends = size, begin is not None, end is not None
        # A token that is several of them is the first of these: it can be predicted as one thing alone.
        own: dict[int, int] = {}
        for special, token in (EOS, end), (UNK, unknown), (BOS, begin):
            if token is not None:
                own.setdefault(token, special)
        rest = [token for token in range(size) if token not in own]
        self.ours = np.zeros(size, dtype=np.int64)
        """(V,) this project's id of each of the model's."""
        self.ours[list(own)] = list(own.values())
        self.ours[rest] = np.arange(len(rest)) + len(SPECIAL_TOKENS)
        specials = {special: token for token, special in own.items()}
        self.predicted = torch.tensor([specials.get(special, -1) for special in range(4)] + rest)
        """(V',) the model's id of each of this project's, whose logit it is; -1: it has none."""
        self.read = self.predicted.clone()
        """(V',) what the model reads in its place."""
        self.read[[PAD, UNK, BOS, EOS]] = torch.tensor(
            [next((token for token in (each, padding, end) if token is not None), 0) for each in
             (padding, unknown, begin, end)]
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.predicted)


class ForeignNetwork(nn.Module):
    """A network that speaks this project's ids: (B, T) to float32 logits (B, T, V').

    Args:
        inside: the model's own, or a function: ids (B, T) to logits (B, T, V), alone, first of a tuple, or as
            ``.logits``. A ``mask`` (B, T), true where there is a token, goes with them where ``masked`` is set.
        renumbering: of the ids; None: they are this project's already.
        name: what it is called in errors.
        masked: whether it takes a mask, as ``attention_mask``.
    """

    def __init__(
        self, inside: Callable[..., Any], renumbering: Renumbering | None, name: str, masked: bool = False
    ) -> None:
        super().__init__()
        self.inside, self.name, self.masked = inside, name, masked
        self.begins = renumbering is None or renumbering.begins
        self.size = renumbering.size if renumbering else None
        self.read: Tensor | None
        self.predicted: Tensor | None
        # Of no size to speak of; they go where the network goes.
        self.register_buffer("read", renumbering.read if renumbering else None, persistent=False)
        self.register_buffer("predicted", renumbering.predicted if renumbering else None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits.

        Raises:
            SettingError: the network fails, or what it returns is not logits of each place.
        """
        if self.read is None or self.predicted is None:
            return self._logits(ids, ids != PAD)
        theirs, present = self.read[ids], ids != PAD
        alone = None if self.begins else ids[:, :1] == BOS  # (B, 1) rows that begin with what the model does not know
        if alone is not None and alone.any():
            # They are read from their first token on; what is known before it is nothing.
            theirs = torch.where(alone, torch.cat([theirs[:, 1:], self.read[PAD].expand(len(ids), 1)], dim=1), theirs)
            present = torch.where(alone, torch.cat([present[:, 1:], present.new_zeros(len(ids), 1)], dim=1), present)
            present[:, :1] = True  # a text may have no token at all
            logits = self._logits(theirs, present)
            later = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)
            logits = torch.where(alone[..., None], later, logits)
        else:
            logits = self._logits(theirs, present)
        logits = logits[..., self.predicted.clamp(min=0)]
        logits[..., self.predicted < 0] = NEVER
        return logits

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        try:
            given = self.inside(input_ids=ids, attention_mask=mask.long()) if self.masked else self.inside(ids)
        except MiniLLMError:
            raise
        except Exception as error:  # whatever a network of somebody's raises
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self.name, f"{FAILS} {_shape(ids)}: {problem}") from error
        logits = getattr(given, "logits", given)
        logits = logits[0] if isinstance(logits, tuple | list) and logits else logits
        logits = torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits
        wanted = f"must be logits ({ids.size(0)}, {ids.size(1)}, {self.size or 'V'}), one for each token at each place"
        if not isinstance(logits, Tensor):
            raise SettingError("network", self.name, f"returns {type(logits).__name__} for ids {_shape(ids)}; {wanted}")
        right = logits.dim() == 3 and logits.shape[:2] == ids.shape and logits.size(2) == (self.size or logits.size(2))
        if not right or not logits.is_floating_point():
            kind = f"{str(logits.dtype).removeprefix('torch.')} of shape {_shape(logits)}"
            raise SettingError("network", self.name, f"returns {kind} for ids {_shape(ids)}; {wanted}")
        return logits.to(ids.device).float().clamp(min=NEVER)


class ForeignTokenizer:
    """A tokenizer that speaks this project's ids, with what figures and checks use of `minillm.tokenization.Tokenizer`.

    Args:
        encode: the model's ids of each of many texts, without tokens before and after, and what their unknown tokens
            hide, see `minillm.tokenization.Encoded`.
        decode: the text of the model's ids.
        spell: how the vocabulary spells one of the model's ids.
        renumbering: of the ids.
        name: what it is called in errors.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Sequence[tuple[Sequence[int], int]]],
        decode: Callable[[list[int]], str],
        spell: Callable[[int], str],
        renumbering: Renumbering,
        name: str,
    ) -> None:
        self._encode, self._decode, self._spell, self._name = encode, decode, spell, name
        self._renumbering = renumbering
        self.ends = renumbering.ends

    def __len__(self) -> int:
        return len(self._renumbering)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without [BOS] and [EOS]."""
        return self.encode_batch([text])[0].ids

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode many texts at once, and count what the unknown tokens lose.

        Raises:
            SettingError: the tokenizer fails, or gives ids that the network has no logits for.
        """
        try:
            encoded = self._encode(texts)
            arrays = [np.asarray(ids, dtype=np.int64).reshape(-1) for ids, _ in encoded]
        except MiniLLMError:
            raise
        except Exception as error:  # whatever a tokenizer of somebody's raises
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self._name, f"its tokenizer fails to encode text: {problem}") from error
        for ids in arrays:
            if len(ids) and not (ids.min() >= 0 and ids.max() < self._renumbering.size):
                worst = int(ids.min() if ids.min() < 0 else ids.max())
                advice = f"its tokenizer gives the id {worst:,}, and it has logits of {self._renumbering.size:,} tokens"
                raise SettingError("network", self._name, f"{advice} alone: they do not belong together")
        return [
            Encoded(self._bare(self._renumbering.ours[ids]).tolist(), unknown_bytes)
            for ids, (_, unknown_bytes) in zip(arrays, encoded, strict=True)
        ]

    def decode(self, ids: Any) -> str:
        """Return the text of the ids: [PAD], [BOS] and [EOS] are left out, an unknown token shows as [UNK]."""
        ids = list(ids)
        text = self._decoded([int(self._renumbering.predicted[each]) for each in ids if each not in (PAD, BOS, EOS)])
        if UNK not in ids:
            return text
        # As the model's own tokenizer sets it among the others, and in this project's spelling.
        spelled = self._decoded([int(self._renumbering.predicted[UNK])]).strip()
        return text.replace(spelled, SPECIAL_TOKENS[UNK]) if spelled else text

    def token(self, token_id: int) -> str:
        """Return an entry as the vocabulary spells it."""
        if token_id < len(SPECIAL_TOKENS):
            return SPECIAL_TOKENS[token_id]
        theirs = int(self._renumbering.predicted[token_id])
        try:
            return self._spell(theirs)
        except Exception:  # a network may have logits of more tokens than its tokenizer knows
            return f"<{theirs}>"

    def _decoded(self, ids: list[int]) -> str:
        try:
            return str(self._decode(ids)) if ids else ""
        except Exception as error:  # whatever a tokenizer of somebody's raises
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self._name, f"its tokenizer fails to decode ids: {problem}") from error

    def _bare(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids without a [BOS] that the tokenizer put before them, and an [EOS] after them."""
        if len(ids) and ids[0] == BOS:
            ids = ids[1:]
        if len(ids) and ids[-1] == EOS:
            ids = ids[:-1]
        return ids


class AuditedModel(LanguageModel):
    """A model as an audit sees it: with any network that maps ids (B, T) to logits (B, T, V).

    Args:
        network: in this project's ids; it is put in eval mode.
        tokenizer: of these ids.
        max_length: tokens of context that it is judged with.
        config: what is said about it.
        name: what it is called.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Tokenizer | ForeignTokenizer,
        max_length: int,
        config: dict[str, Any],
        name: str,
    ) -> None:
        super().__init__(network, cast(Tokenizer, tokenizer), config)
        self._max_length = max_length
        self.name = name

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    @property
    def max_length(self) -> int:
        """Tokens of context."""
        return self._max_length

    def continue_batch(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None = None, seed: int | None = None
    ) -> list[str]:
        """Return continuations, see `LanguageModel.continue_batch`; without a cache where the network has none."""
        if hasattr(self.network, "new_cache") and self._max_length == getattr(self.network, "max_length", None):
            return super().continue_batch(prompts, max_new_tokens, sampling, seed)
        ids = [[BOS, *self.tokenizer.encode(prompt)] for prompt in prompts]
        continued = [list(row) for row in ids]
        decoder = _Rereading(self.network, self._max_length, len(self.tokenizer))
        for draw in generate_tokens(cast(Any, decoder), ids, max_new_tokens, sampling or Sampling(), seed, self.device):
            for row, token in zip(continued, draw.tokens, strict=True):
                if token not in (None, EOS):
                    row.append(token)
        decode = self.tokenizer.decode
        return [decode(row)[len(decode(prompt)) :] for row, prompt in zip(continued, ids, strict=True)]


class _Rereading:
    """What `minillm.generation` needs of a network that keeps nothing: the text is read again for each token.

    Args:
        network: ids (B, T) to logits (B, T, V).
        max_length: tokens of context.
        vocab_size: V.
    """

    def __init__(self, network: nn.Module, max_length: int, vocab_size: int) -> None:
        self._network, self.max_length, self._vocab_size = network, max_length, vocab_size

    @dataclass
    class Cache:
        """The tokens of each row so far, at their right places, and how many there are."""

        capacity: int
        length: int = 0
        rows: list[Tensor] = field(default_factory=list)

    def new_cache(self, batch_size: int, capacity: int) -> "_Rereading.Cache":
        return self.Cache(capacity)

    def hidden(self, ids: Tensor, documents: Tensor | None, cache: "_Rereading.Cache") -> Tensor:
        """Return (B, 1, V): the logits after each row's newest token."""
        if not cache.rows:  # what stands before a shorter row is no part of it
            cache.rows = [row if documents is None else row[documents[n] > 0] for n, row in enumerate(ids)]
        else:
            cache.rows = [torch.cat([row, new]) for row, new in zip(cache.rows, ids, strict=True)]
        cache.length += ids.size(1)
        at_once = max(1, LOGITS_AT_ONCE // (cache.length * self._vocab_size))
        last = []
        for first in range(0, len(cache.rows), at_once):
            rows = cache.rows[first : first + at_once]
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
            ends = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
            last.append(self._network(padded)[torch.arange(len(rows), device=ids.device), ends])
        return torch.cat(last)[:, None]

    def head(self, hidden: Tensor) -> Tensor:
        """Return what `hidden` returned, which is logits already."""
        return hidden


@dataclass(frozen=True)
class CheckpointNetwork:
    """A checkpoint of this project.

    Args:
        path: the file.
        trusted: full names of your own classes that it may name, see `minillm.load`.
        max_length: tokens of context to judge it with; None: its own.
        device: where to put it; None: a GPU where there is one.
    """

    path: str | None = None
    trusted: list[str] = field(default_factory=list)
    max_length: int | None = None
    device: str | None = None

    def open(self) -> AuditedModel:
        """Return the model.

        Raises:
            SettingError: no whole checkpoint, or a context that it does not have.
        """
        if self.path is None:
            raise SettingError("path", self.path, "must name a checkpoint, such as outputs/train/.../best.ckpt")
        try:
            model = load(self.path, self.device, self.trusted)
        except SettingError as error:
            setting = "path" if error.setting == "ckpt" else error.setting
            raise SettingError(setting, error.value, error.advice) from error
        return audited(model, max_length=self.max_length, name=self.path)


@dataclass(frozen=True)
class TransformersNetwork:
    """A causal language model of the library transformers, with its own tokenizer.

    Args:
        path: its folder, or its name on the Hugging Face Hub.
        revision: branch, tag or commit on the hub; None: the newest.
        tokenizer: folder or name of its tokenizer; None: beside it.
        end: whether the end of each text is predicted, where the tokenizer has a token for it. A model that has not
            learned to end its texts pays for that; false: the text alone.
        trusted: whether code and pickled weights that come with it may be used: both can do anything on this machine.
        max_length: tokens of context to judge it with; None: its own, 1,024 at most.
        device: where to put it; None: a GPU where there is one.
    """

    path: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    end: bool = True
    trusted: bool = False
    max_length: int | None = None
    device: str | None = None

    def open(self) -> AuditedModel:
        """Return the model.

        Raises:
            SettingError: it is no causal language model, or not whole, or something that is not trusted.
            OutsideError: transformers is missing, or the hub cannot be reached.
        """
        if self.path is None:
            raise SettingError("path", self.path, "must name a folder, or a model on the Hugging Face Hub")
        network, tokenizer = self._loaded(self.path)
        return _of_transformers(network, tokenizer, self.path, self.end, self.max_length, self.device)

    def _loaded(self, path: str) -> tuple[nn.Module, Any]:
        transformers = _transformers()
        options: dict[str, Any] = {"revision": self.revision or "main", "trust_remote_code": self.trusted}
        with _quiet(transformers):
            with _explained("path", path):
                config = transformers.AutoConfig.from_pretrained(path, **options)
            known = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
            if not known and "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}):
                advice = f"is no causal language model of transformers: {config.model_type}"
                raise SettingError("path", path, advice)
            with _explained("tokenizer" if self.tokenizer else "path", self.tokenizer or path, "has no tokenizer: "):
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.tokenizer or path, **options)
            if tokenizer is None or not len(tokenizer):
                raise SettingError("path", path, "has no tokenizer; network.tokenizer=... names another place")
            with _explained("path", path):
                network, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                    path,
                    config=config,
                    dtype=torch.float32,
                    use_safetensors=None if self.trusted else True,
                    output_loading_info=True,
                    **options,
                )
        if missing := sorted(loaded["missing_keys"]):
            advice = f"lacks {len(missing)} of the network's weights, such as {missing[0]}: what it predicts is chance"
            raise SettingError("path", path, advice)
        return network, tokenizer


@dataclass(frozen=True)
class PythonNetwork:
    """Anything else: what a function of yours returns.

    Args:
        target: ``module:function``, which is imported from the current folder too, and called without arguments. It
            returns an object with

            - ``network``: maps ids (B, T), int64, to logits (B, T, V);
            - ``encode(text)``: the ids of a text, and ``decode(ids)``;
            - where there are such: ``begin_id``, ``end_id``, ``unknown_id``, and ``max_length``, the tokens of context.
        max_length: tokens of context to judge it with; None: the object's own.
    """

    target: str | None = None
    max_length: int | None = None

    def open(self) -> AuditedModel:
        """Return the model.

        Raises:
            SettingError: the target cannot be imported or called, or the object lacks something.
        """
        if self.target is None:
            raise SettingError("target", self.target, "must name a function, such as mine:model")
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)  # for good: a module may import others only when it is used
        function = resolve(self.target, "target")
        try:
            made = function()
        except Exception as error:  # whatever a function of somebody's raises
            problem = " ".join(str(error).split()) or "without a word"
            raise SettingError("target", self.target, f"raises {type(error).__name__}: {problem}") from error
        return audited(made, max_length=self.max_length, name=self.target)


Openable = CheckpointNetwork | TransformersNetwork | PythonNetwork


def audited(
    model: Any, tokenizer: Any = None, max_length: int | None = None, name: str | None = None, end: bool = True
) -> AuditedModel:
    """Return any model as an audit sees it.

    Args:
        model: what `minillm.load` returns; a causal language model of transformers with its ``tokenizer``; a network in
            this project's ids with one of its tokenizers; an object as `PythonNetwork` describes it; one of the
            classes above; or a path: of a checkpoint, or of a model of transformers.
        tokenizer: see there.
        max_length: tokens of context to judge it with; None: its own.
        name: what it is called in errors.
        end: see `TransformersNetwork`.

    Raises:
        SettingError: it is none of these, or does not work.
    """
    if isinstance(model, str | Path):
        path = str(model)
        kind = CheckpointNetwork if Path(path).is_file() or path.endswith(".ckpt") else TransformersNetwork
        model = kind(path, max_length=max_length)
    if isinstance(model, Openable):
        try:
            return model.open()
        except SettingError as error:
            raise error.within("" if error.setting == "network" else "network") from error
    if isinstance(model, AuditedModel):
        return model
    name = name or type(model).__name__
    if isinstance(model, LanguageModel):
        own = model.max_length
        length = _length(max_length, own, own)
        return AuditedModel(model.network, model.tokenizer, length, model.config, name)
    if isinstance(tokenizer, Tokenizer) and isinstance(model, nn.Module):
        return _of_this_project(model, tokenizer, name, max_length)
    if tokenizer is not None and hasattr(model, "config"):
        return _of_transformers(model, tokenizer, name, end, max_length, None)
    return _of_python(model, name, max_length)


def _of_this_project(network: nn.Module, tokenizer: Tokenizer, name: str, max_length: int | None) -> AuditedModel:
    length = _length(max_length, getattr(network, "max_length", None), None)
    network = network if hasattr(network, "new_cache") else ForeignNetwork(network, None, name)
    model = AuditedModel(network, tokenizer, length, {}, name)
    _try(model)
    return model


def _of_transformers(
    network: Any, tokenizer: Any, name: str, end: bool, max_length: int | None, device: str | None
) -> AuditedModel:
    config = network.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    begin_id, end_id = (_first(tokenizer, *names) for names in (("bos", "cls"), ("eos", "sep")))
    unknown = tokenizer.unk_token_id
    # A vocabulary of bytes needs none; GPT-2's names one all the same, which is its [EOS].
    unknown = None if unknown in (begin_id, end_id) else unknown
    size = int(getattr(text, "vocab_size", None) or len(tokenizer))
    renumbering = Renumbering(
        size,
        begin_id if begin_id is not None else end_id,
        end_id if end else None,
        unknown,
        _first(tokenizer, "pad"),
    )
    places = [getattr(text, place, None) for place in PLACES]
    known = [place for place in (*places, tokenizer.model_max_length) if isinstance(place, int) and 0 < place < 10**9]
    own = min(known, default=None)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    masked = "attention_mask" in inspect.signature(network.forward).parameters
    if device is not None or torch.cuda.is_available():
        network = network.to(device or "cuda")
    model = AuditedModel(
        ForeignNetwork(network, renumbering, name, masked).to(next(network.parameters()).device),
        ForeignTokenizer(
            lambda texts: _encoded_by_transformers(tokenizer, texts, unknown),
            lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
            lambda token: str(tokenizer.convert_ids_to_tokens(token)),
            renumbering,
            name,
        ),
        _length(max_length, min(LONGEST, own) if own else LONGEST, own),
        {
            "network": {"path": name, "class": type(network).__name__, "vocabulary": size, "context": own},
            "tokenizer": {
                "class": type(tokenizer).__name__,
                "begin": _spelled(tokenizer, begin_id if begin_id is not None else end_id),
                "end": _spelled(tokenizer, end_id if end else None),
                "unknown": _spelled(tokenizer, unknown),
            },
        },
        name,
    )
    try:
        _try(model)
    except SettingError:
        # Networks like RoBERTa's count their places from behind the id of the padding.
        shorter = model.max_length - 1 - (_first(tokenizer, "pad") or 0)
        if max_length is not None or shorter < model.max_length // 2:
            raise
        model = AuditedModel(model.network, model.tokenizer, shorter, model.config, name)
        _try(model)
    model.config["network"]["max_length"] = model.max_length
    return model


def _of_python(model: Any, name: str, max_length: int | None) -> AuditedModel:
    for part in "network", "encode", "decode":
        if not callable(getattr(model, part, None)):
            advice = f"has no {part} that can be called: it needs network (ids -> logits), encode and decode"
            raise SettingError("network", name, advice)
    length = _length(max_length, getattr(model, "max_length", None), None)
    network = model.network.eval() if isinstance(model.network, nn.Module) else model.network
    size = _vocabulary(network, name)
    renumbering = Renumbering(size, *(getattr(model, f"{token}_id", None) for token in ("begin", "end", "unknown")))
    if not renumbering.begins and renumbering.ends:
        renumbering = Renumbering(size, model.end_id, model.end_id, getattr(model, "unknown_id", None))
    audited_model = AuditedModel(
        ForeignNetwork(network, renumbering, name),
        ForeignTokenizer(
            lambda texts: [_encoded_by_python(model, text) for text in texts],
            model.decode,
            lambda token: str(model.decode([token])),
            renumbering,
            name,
        ),
        length,
        {"network": {"target": name, "class": type(network).__name__, "vocabulary": size, "max_length": length}},
        name,
    )
    _try(audited_model)
    return audited_model


def _try(model: AuditedModel) -> None:
    """Have the network read a window of the whole context, so that what does not work shows at once.

    Raises:
        SettingError: it does not work, or its logits are no numbers.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIAL_TOKENS), len(model.tokenizer), (1, model.max_length), generator=generator)
    ids[0, 0] = BOS
    try:
        with torch.inference_mode():
            logits = model.network(ids.to(model.device))
    except SettingError as error:
        if FAILS in error.advice:
            advice = f"{error.advice}; if its context is shorter than {model.max_length}, set network.max_length"
            raise SettingError(error.setting, error.value, advice) from error
        raise
    if not all_finite([logits]):
        raise SettingError("network", model.name, "its logits are no numbers")


def _vocabulary(network: Callable[..., Any], name: str) -> int:
    """Return how many tokens a network gives logits of."""
    device = torch.device("cpu")
    if isinstance(network, nn.Module):
        device = next((parameter.device for parameter in network.parameters()), device)
    with torch.inference_mode():
        return int(ForeignNetwork(network, None, name)(torch.ones(1, 2, dtype=torch.long, device=device)).size(-1))


def _length(asked: int | None, own: int | None, most: int | None) -> int:
    """Return the tokens of context: those asked for, or its own.

    Raises:
        SettingError: nobody says, or more are asked for than it has.
    """
    if asked is None and not (isinstance(own, int) and own > 0):
        raise SettingError("max_length", asked, "must be given, for the network does not say it; such as 256")
    length = own if asked is None else asked
    if asked is not None and (asked < 2 or (most is not None and asked > most)):
        raise SettingError("max_length", asked, f"must be at least 2{f' and at most {most:,}' if most else ''}")
    return cast(int, length)


def _encoded_by_transformers(tokenizer: Any, texts: Sequence[str], unknown: int | None) -> list[tuple[list[int], int]]:
    """Return the ids of texts, and what their unknown tokens hide."""
    fast = bool(tokenizer.is_fast)
    encoded = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=fast and unknown is not None,
        split_special_tokens=True,
        verbose=False,
    )
    results = []
    for number, (text, ids) in enumerate(zip(texts, encoded["input_ids"], strict=True)):
        hidden = 0
        if unknown is not None and unknown in ids:
            count = ids.count(unknown)
            if fast:
                spans = [span for token, span in zip(ids, encoded["offset_mapping"][number], strict=True)
                         if token == unknown]  # fmt: skip
                hidden = sum(len(text[start:end].encode()) + 1 for start, end in spans)
            else:  # it does not say where its tokens come from: what the others do not spell
                known = tokenizer.decode([token for token in ids if token != unknown])
                hidden = max(0, len(text.encode()) - len(known.encode())) + count
        results.append((ids, hidden))
    return results


def _encoded_by_python(model: Any, text: str) -> tuple[list[int], int]:
    """Return the ids of a text, and what its unknown tokens hide: what the others do not spell."""
    ids = list(model.encode(text))
    unknown = getattr(model, "unknown_id", None)
    count = ids.count(unknown) if unknown is not None else 0
    if not count:
        return ids, 0
    known = str(model.decode([token for token in ids if token != unknown]))
    return ids, max(0, len(text.encode()) - len(known.encode())) + count


def _first(tokenizer: Any, *names: str) -> int | None:
    """Return the first of a tokenizer's special tokens that it has."""
    tokens = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return next((int(token) for token in tokens if token is not None), None)


def _spelled(tokenizer: Any, token: int | None) -> str | None:
    return None if token is None else str(tokenizer.convert_ids_to_tokens(token))


def _shape(ids: Tensor) -> str:
    return f"({', '.join(map(str, ids.shape))})"


def _transformers() -> Any:
    """Return the library.

    Raises:
        OutsideError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise OutsideError(f"network=transformers needs the library transformers: {INSTALL}") from error
    return transformers


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Leave out what the library says on the way: what matters comes as an error."""
    before = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def _explained(setting: str, path: str, what: str = "") -> Iterator[None]:
    """Make one line of whatever the library raises on files that anybody may have made."""
    try:
        yield
    except MiniLLMError:
        raise
    except Exception as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        if Path(path).is_dir():
            if "safetensors" in problem and "no file named" in problem:
                problem = (
                    "has no weights as safetensors; pickled ones can run code: network.trusted=true if you trust it"
                )
            elif "trust_remote_code" in problem:
                problem = "brings code of its own, which was not run: network.trusted=true if you trust it"
            raise SettingError(setting, path, f"{what}{problem}") from error
        if _is_unreachable(error):
            raise OutsideError(f"{path}: the hub cannot be reached: {problem[:200]}") from error
        raise SettingError(setting, path, f"{what}is no folder, and no model of the hub: {problem[:200]}") from error


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether the network is what stands behind an error."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or "Connect" in type(error).__name__:
            return True
        if "couldn't connect" in str(error).lower() or "offline" in type(error).__name__.lower():
            return True
        error = error.__cause__ or error.__context__
    return False
