"""Adapters for any language model: its ids become [PAD] = 0, [UNK] = 1, [BOS] = 2, [EOS] = 3, then its other tokens.

With them, all figures, checks and plots of this project work for any model. Missing special tokens are handled so that
figures are still code lengths of the whole text, comparable across vocabularies:

- A model without [BOS] reads its [EOS] there, as between the documents of its training. Without either, the first token
  of a text costs ln V nats, as if it were uniformly distributed.
- A model without [EOS] does not predict the end of a text.
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

NO_SUCH_TOKEN = -1e30
"""The logit of a token that the network does not have; finite, so that differences of logits are numbers."""

MAX_DEFAULT_LENGTH = 1024
"""Maximum tokens of context by default: with 150,000 tokens in the vocabulary, a row's logits then take 600 MB."""

LOGITS_AT_ONCE = 2**27  # 512 MiB, which bounds the memory
FAILS = "fails on ids of shape"
INSTALL = "pip install -e '.[audit]'"
# Settings of transformers' configurations with the number of positions.
LENGTH_SETTINGS = (
    *("max_position_embeddings", "n_positions", "n_ctx"),
    *("max_sequence_length", "max_seq_len", "seq_length"),
)


class IdMapping:
    """The mapping between a model's ids and this project's.

    Args:
        size: V, logits per position.
        begin: the model's token at the beginning of a text; None: it has none.
        end: its token at the end of a text, perhaps the same; None: it has none.
        unknown: its token for unknown words; None: it has none.
        padding: its padding token; None: any token is used.
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
                raise SettingError(f"{name}_id", token, f"is not a token: the network has logits for {size:,}")
        self.size, self.begins, self.ends = size, begin is not None, end is not None
        # A token with several roles gets the first of these, since it can only be predicted as one.
        own: dict[int, int] = {}
        for special, token in (EOS, end), (UNK, unknown), (BOS, begin):
            if token is not None:
                own.setdefault(token, special)
        rest = [token for token in range(size) if token not in own]
        self.ours = np.zeros(size, dtype=np.int64)
        """(V,) this project's id for each id of the model."""
        self.ours[list(own)] = list(own.values())
        self.ours[rest] = np.arange(len(rest)) + len(SPECIAL_TOKENS)
        specials = {special: token for token, special in own.items()}
        self.predicted = torch.tensor([specials.get(special, -1) for special in range(4)] + rest)
        """(V',) for each id of this project, the model's id with its logit; -1: there is none."""
        self.read = self.predicted.clone()
        """(V',) for each id of this project, the id that the model reads."""
        self.read[[PAD, UNK, BOS, EOS]] = torch.tensor(
            [next((token for token in (each, padding, end) if token is not None), 0) for each in
             (padding, unknown, begin, end)]
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.predicted)


class AdaptedNetwork(nn.Module):
    """A network that maps this project's ids (B, T) to float32 logits (B, T, V').

    Args:
        inside: the model's network, or a function: ids (B, T) to logits (B, T, V), returned alone, first in a tuple, or
            as ``.logits``.
        mapping: of the ids; None: they are this project's already.
        name: of the model, for errors.
        masked: whether the network takes an ``attention_mask`` (B, T), true at tokens.
    """

    def __init__(self, inside: Callable[..., Any], mapping: IdMapping | None, name: str, masked: bool = False) -> None:
        super().__init__()
        self.inside, self.name, self.masked = inside, name, masked
        self.begins = mapping is None or mapping.begins
        self.size = mapping.size if mapping else None
        self.read: Tensor | None
        self.predicted: Tensor | None
        # Small buffers, which move to the network's device.
        self.register_buffer("read", mapping.read if mapping else None, persistent=False)
        self.register_buffer("predicted", mapping.predicted if mapping else None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits.

        Raises:
            SettingError: the network fails, or does not return logits for each position.
        """
        if self.read is None or self.predicted is None:
            return self._logits(ids, ids != PAD)
        theirs, present = self.read[ids], ids != PAD
        alone = None if self.begins else ids[:, :1] == BOS  # (B, 1) rows with a [BOS], which the model lacks
        if alone is not None and alone.any():
            # Read these rows from their first token on; its own distribution is uniform.
            theirs = torch.where(alone, torch.cat([theirs[:, 1:], self.read[PAD].expand(len(ids), 1)], dim=1), theirs)
            present = torch.where(alone, torch.cat([present[:, 1:], present.new_zeros(len(ids), 1)], dim=1), present)
            present[:, :1] = True  # a text may be empty
            logits = self._logits(theirs, present)
            later = torch.cat([torch.zeros_like(logits[:, :1]), logits[:, :-1]], dim=1)
            logits = torch.where(alone[..., None], later, logits)
        else:
            logits = self._logits(theirs, present)
        logits = logits[..., self.predicted.clamp(min=0)]
        logits[..., self.predicted < 0] = NO_SUCH_TOKEN
        return logits

    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        try:
            given = self.inside(input_ids=ids, attention_mask=mask.long()) if self.masked else self.inside(ids)
        except MiniLLMError:
            raise
        except Exception as error:  # a user's network can raise anything
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self.name, f"{FAILS} {_shape(ids)}: {problem}") from error
        logits = getattr(given, "logits", given)
        logits = logits[0] if isinstance(logits, tuple | list) and logits else logits
        logits = torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits
        wanted = f"must be logits ({ids.size(0)}, {ids.size(1)}, {self.size or 'V'}), one per token at each position"
        if not isinstance(logits, Tensor):
            raise SettingError("network", self.name, f"returns {type(logits).__name__} for ids {_shape(ids)}; {wanted}")
        right = logits.dim() == 3 and logits.shape[:2] == ids.shape and logits.size(2) == (self.size or logits.size(2))
        if not right or not logits.is_floating_point():
            kind = f"{str(logits.dtype).removeprefix('torch.')} of shape {_shape(logits)}"
            raise SettingError("network", self.name, f"returns {kind} for ids {_shape(ids)}; {wanted}")
        return logits.to(ids.device).float().clamp(min=NO_SUCH_TOKEN)


class AdaptedTokenizer:
    """A tokenizer with this project's ids and the part of `minillm.tokenization.Tokenizer` that evaluation uses.

    Args:
        encode: maps texts to the model's ids, without special tokens before and after, and the cost of unknown words,
            see `minillm.tokenization.Encoded`.
        decode: maps the model's ids to text.
        spell: maps one of the model's ids to its entry in the vocabulary.
        mapping: of the ids.
        name: of the model, for errors.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Sequence[tuple[Sequence[int], int]]],
        decode: Callable[[list[int]], str],
        spell: Callable[[int], str],
        mapping: IdMapping,
        name: str,
    ) -> None:
        self._encode, self._decode, self._spell, self._name = encode, decode, spell, name
        self._mapping = mapping
        self.ends = mapping.ends

    def __len__(self) -> int:
        return len(self._mapping)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without [BOS] and [EOS]."""
        return self.encode_batch([text])[0].ids

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode texts, and count the cost of their unknown words.

        Raises:
            SettingError: the tokenizer fails, or returns ids for which the network has no logits.
        """
        try:
            encoded = self._encode(texts)
            arrays = [np.asarray(ids, dtype=np.int64).reshape(-1) for ids, _ in encoded]
        except MiniLLMError:
            raise
        except Exception as error:  # a user's tokenizer can raise anything
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self._name, f"its tokenizer fails to encode text: {problem}") from error
        for ids in arrays:
            if len(ids) and not (ids.min() >= 0 and ids.max() < self._mapping.size):
                worst = int(ids.min() if ids.min() < 0 else ids.max())
                advice = f"its tokenizer returns the id {worst:,}, but it has logits for only {self._mapping.size:,}"
                raise SettingError("network", self._name, f"{advice} tokens: they do not belong together")
        return [
            Encoded(self._without_specials(self._mapping.ours[ids]).tolist(), unknown_bytes)
            for ids, (_, unknown_bytes) in zip(arrays, encoded, strict=True)
        ]

    def decode(self, ids: Any) -> str:
        """Return the text of ids, without [PAD], [BOS] and [EOS]; an unknown word is shown as [UNK]."""
        ids = list(ids)
        text = self._decoded([int(self._mapping.predicted[each]) for each in ids if each not in (PAD, BOS, EOS)])
        if UNK not in ids:
            return text
        # With the spacing of the model's tokenizer and this project's spelling.
        spelled = self._decoded([int(self._mapping.predicted[UNK])]).strip()
        return text.replace(spelled, SPECIAL_TOKENS[UNK]) if spelled else text

    def token(self, token_id: int) -> str:
        """Return an entry as the vocabulary spells it."""
        if token_id < len(SPECIAL_TOKENS):
            return SPECIAL_TOKENS[token_id]
        theirs = int(self._mapping.predicted[token_id])
        try:
            return self._spell(theirs)
        except Exception:  # a network may have more logits than its tokenizer has entries
            return f"<{theirs}>"

    def _decoded(self, ids: list[int]) -> str:
        try:
            return str(self._decode(ids)) if ids else ""
        except Exception as error:  # a user's tokenizer can raise anything
            problem = " ".join(str(error).split()) or type(error).__name__
            raise SettingError("network", self._name, f"its tokenizer fails to decode ids: {problem}") from error

    def _without_specials(self, ids: np.ndarray) -> np.ndarray:
        """Return the ids without a [BOS] before and an [EOS] after them."""
        if len(ids) and ids[0] == BOS:
            ids = ids[1:]
        if len(ids) and ids[-1] == EOS:
            ids = ids[:-1]
        return ids


class AuditedModel(LanguageModel):
    """A model to audit, with any network that maps ids (B, T) to logits (B, T, V).

    Args:
        network: with this project's ids; set to eval mode.
        tokenizer: with the same ids.
        max_length: tokens of context.
        config: a description, for the report.
        name: of the model.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Tokenizer | AdaptedTokenizer,
        max_length: int,
        config: dict[str, Any],
        name: str,
    ) -> None:
        super().__init__(network, cast(Tokenizer, tokenizer), config)
        self._max_length = max_length
        self.name = name

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    @property
    def max_length(self) -> int:
        """Tokens of context."""
        return self._max_length

    def continue_batch(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None = None, seed: int | None = None
    ) -> list[str]:
        """Return continuations, see `LanguageModel.continue_batch`; without a cache if the network has none."""
        if hasattr(self.network, "new_cache") and self._max_length == getattr(self.network, "max_length", None):
            return super().continue_batch(prompts, max_new_tokens, sampling, seed)
        ids = [[BOS, *self.tokenizer.encode(prompt)] for prompt in prompts]
        continued = [list(row) for row in ids]
        decoder = _UncachedDecoder(self.network, self._max_length, len(self.tokenizer))
        for draw in generate_tokens(cast(Any, decoder), ids, max_new_tokens, sampling or Sampling(), seed, self.device):
            for row, token in zip(continued, draw.tokens, strict=True):
                if token not in (None, EOS):
                    row.append(token)
        decode = self.tokenizer.decode
        return [decode(row)[len(decode(prompt)) :] for row, prompt in zip(continued, ids, strict=True)]


class _UncachedDecoder:
    """Makes a network without a cache usable by `minillm.generation`: it reads the whole context for each token.

    Args:
        network: ids (B, T) to logits (B, T, V).
        max_length: tokens of context.
        vocab_size: V.
    """

    def __init__(self, network: nn.Module, max_length: int, vocab_size: int) -> None:
        self._network, self.max_length, self._vocab_size = network, max_length, vocab_size

    @dataclass
    class Cache:
        """The tokens of each row so far."""

        capacity: int
        length: int = 0
        rows: list[Tensor] = field(default_factory=list)

    def new_cache(self, batch_size: int, capacity: int) -> "_UncachedDecoder.Cache":
        return self.Cache(capacity)

    def hidden(self, ids: Tensor, documents: Tensor | None, cache: "_UncachedDecoder.Cache") -> Tensor:
        """Return the logits after each row's last token, (B, 1, V)."""
        if not cache.rows:  # without the padding on the left
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
        """Return the output of `hidden`, which is already logits."""
        return hidden


@dataclass(frozen=True)
class CheckpointNetwork:
    """A checkpoint of this project.

    Args:
        path: the file.
        trusted: full names of your own classes that it may name, see `minillm.load`.
        max_length: tokens of context; None: the model's own.
        device: where to put it; None: a GPU if there is one.
    """

    path: str | None = None
    trusted: list[str] = field(default_factory=list)
    max_length: int | None = None
    device: str | None = None

    def open(self) -> AuditedModel:
        """Return the model.

        Raises:
            SettingError: not a complete checkpoint, or a context longer than the model's.
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
        tokenizer: folder or name of its tokenizer; None: as ``path``.
        end: whether the end of each text is predicted, if the tokenizer has a token for it; false suits models that
            have not learned to end texts.
        trusted: whether to use code and pickled weights that come with it; both can do anything on this machine.
        max_length: tokens of context; None: the model's own, at most 1,024.
        device: where to put it; None: a GPU if there is one.
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
            SettingError: not a causal language model, incomplete, or not trusted.
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
                advice = f"is not a causal language model of transformers: {config.model_type}"
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
            advice = f"lacks {len(missing)} of the network's weights, such as {missing[0]}: its predictions are random"
            raise SettingError("path", path, advice)
        return network, tokenizer


@dataclass(frozen=True)
class PythonNetwork:
    """Any other model, returned by a function of yours.

    Args:
        target: ``module:function``, imported also from the current folder, and called without arguments. It returns an
            object with

            - ``network``: maps ids (B, T), int64, to logits (B, T, V);
            - ``encode(text)``: returns the ids of a text, and ``decode(ids)`` the text of ids;
            - if there are such: ``begin_id``, ``end_id``, ``unknown_id``, and ``max_length``, the tokens of context.
        max_length: tokens of context; None: the object's own.
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
            sys.path.append(folder)  # permanently: a module may import others when it is used
        function = resolve(self.target, "target")
        try:
            made = function()
        except Exception as error:  # a user's function can raise anything
            problem = " ".join(str(error).split()) or "without a message"
            raise SettingError("target", self.target, f"raises {type(error).__name__}: {problem}") from error
        return audited(made, max_length=self.max_length, name=self.target)


Openable = CheckpointNetwork | TransformersNetwork | PythonNetwork


def audited(
    model: Any, tokenizer: Any = None, max_length: int | None = None, name: str | None = None, end: bool = True
) -> AuditedModel:
    """Return any model adapted for an audit.

    Args:
        model: a model from `minillm.load`; a causal language model of transformers with its ``tokenizer``; a network
            with this project's ids and one of its tokenizers; an object as described by `PythonNetwork`; an instance of
            one of the classes above; or the path of a checkpoint or of a transformers model.
        tokenizer: see ``model``.
        max_length: tokens of context; None: the model's own.
        name: of the model, for errors.
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
    network = network if hasattr(network, "new_cache") else AdaptedNetwork(network, None, name)
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
    # A byte-level vocabulary needs none, but GPT-2's names its [EOS].
    unknown = None if unknown in (begin_id, end_id) else unknown
    size = int(getattr(text, "vocab_size", None) or len(tokenizer))
    mapping = IdMapping(
        size,
        begin_id if begin_id is not None else end_id,
        end_id if end else None,
        unknown,
        _first(tokenizer, "pad"),
    )
    lengths = [*(getattr(text, name, None) for name in LENGTH_SETTINGS), tokenizer.model_max_length]
    known = [length for length in lengths if isinstance(length, int) and 0 < length < 10**9]
    own = min(known, default=None)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    masked = "attention_mask" in inspect.signature(network.forward).parameters
    if device is not None or torch.cuda.is_available():
        network = network.to(device or "cuda")
    model = AuditedModel(
        AdaptedNetwork(network, mapping, name, masked).to(next(network.parameters()).device),
        AdaptedTokenizer(
            lambda texts: _encoded_by_transformers(tokenizer, texts, unknown),
            lambda ids: tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False),
            lambda token: str(tokenizer.convert_ids_to_tokens(token)),
            mapping,
            name,
        ),
        _length(max_length, min(MAX_DEFAULT_LENGTH, own) if own else MAX_DEFAULT_LENGTH, own),
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
        # Networks such as RoBERTa count positions from the padding's id + 1 on.
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
    mapping = IdMapping(size, *(getattr(model, f"{token}_id", None) for token in ("begin", "end", "unknown")))
    if not mapping.begins and mapping.ends:
        mapping = IdMapping(size, model.end_id, model.end_id, getattr(model, "unknown_id", None))
    audited_model = AuditedModel(
        AdaptedNetwork(network, mapping, name),
        AdaptedTokenizer(
            lambda texts: [_encoded_by_python(model, text) for text in texts],
            model.decode,
            lambda token: str(model.decode([token])),
            mapping,
            name,
        ),
        length,
        {"network": {"target": name, "class": type(network).__name__, "vocabulary": size, "max_length": length}},
        name,
    )
    _try(audited_model)
    return audited_model


def _try(model: AuditedModel) -> None:
    """Run the network once on a full context, to find errors at once.

    Raises:
        SettingError: it fails, or its logits are not finite.
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
        raise SettingError("network", model.name, "its logits are not finite")


def _vocabulary(network: Callable[..., Any], name: str) -> int:
    """Return the number of logits per position."""
    device = torch.device("cpu")
    if isinstance(network, nn.Module):
        device = next((parameter.device for parameter in network.parameters()), device)
    with torch.inference_mode():
        return int(AdaptedNetwork(network, None, name)(torch.ones(1, 2, dtype=torch.long, device=device)).size(-1))


def _length(asked: int | None, own: int | None, most: int | None) -> int:
    """Return the tokens of context: as requested, or the model's own.

    Raises:
        SettingError: neither is known, or more are requested than the model has.
    """
    if asked is None and not (isinstance(own, int) and own > 0):
        raise SettingError("max_length", asked, "must be given, such as 256: the network does not have it")
    length = own if asked is None else asked
    if asked is not None and (asked < 2 or (most is not None and asked > most)):
        raise SettingError("max_length", asked, f"must be at least 2{f' and at most {most:,}' if most else ''}")
    return cast(int, length)


def _encoded_by_transformers(tokenizer: Any, texts: Sequence[str], unknown: int | None) -> list[tuple[list[int], int]]:
    """Return the ids of texts, and the cost of their unknown words."""
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
            else:  # it has no offsets: the bytes that the known tokens do not spell
                known = tokenizer.decode([token for token in ids if token != unknown])
                hidden = max(0, len(text.encode()) - len(known.encode())) + count
        results.append((ids, hidden))
    return results


def _encoded_by_python(model: Any, text: str) -> tuple[list[int], int]:
    """Return the ids of a text, and the cost of its unknown words: the bytes that the known tokens do not spell."""
    ids = list(model.encode(text))
    unknown = getattr(model, "unknown_id", None)
    count = ids.count(unknown) if unknown is not None else 0
    if not count:
        return ids, 0
    known = str(model.decode([token for token in ids if token != unknown]))
    return ids, max(0, len(text.encode()) - len(known.encode())) + count


def _first(tokenizer: Any, *names: str) -> int | None:
    """Return the first of these special tokens that a tokenizer has."""
    tokens = (getattr(tokenizer, f"{name}_token_id", None) for name in names)
    return next((int(token) for token in tokens if token is not None), None)


def _spelled(tokenizer: Any, token: int | None) -> str | None:
    return None if token is None else str(tokenizer.convert_ids_to_tokens(token))


def _shape(ids: Tensor) -> str:
    return f"({', '.join(map(str, ids.shape))})"


def _transformers() -> Any:
    """Return the library transformers.

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
    """Silence the library's messages and progress bars; problems are raised as errors."""
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
    """Turn any error of the library into one line."""
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
        raise SettingError(
            setting, path, f"{what}is neither a folder nor a model on the hub: {problem[:200]}"
        ) from error


def _is_unreachable(error: BaseException | None) -> bool:
    """Return whether an error was caused by the internet connection."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError) or "Connect" in type(error).__name__:
            return True
        if "couldn't connect" in str(error).lower() or "offline" in type(error).__name__.lower():
            return True
        error = error.__cause__ or error.__context__
    return False
