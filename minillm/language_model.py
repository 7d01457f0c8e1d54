"""A trained model: load it, generate text, score text."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from minillm.checkpoint import build_network, find_checkpoint, read_checkpoint
from minillm.data import TextDataModule
from minillm.data.batching import EncodedDocuments, EvaluationBatches, Windows, evaluation_loader
from minillm.errors import MiniLLMError, SettingError
from minillm.generation import MAX_NEW_TOKENS, CachedNetwork, Sampling, generate_tokens
from minillm.tokenization import BOS, EOS, UNK, Tokenizer, load_tokenizer
from minillm.training.metrics import LanguageModelling
from minillm.training.predictions import predict

if TYPE_CHECKING:
    import pandas as pd

    from minillm.inspection import Step

UNKNOWN_SHOWN = 10  # unknown words in a notice


class LanguageModel:
    """A network with its tokenizer.

    Args:
        network: maps ids (B, T) to logits (B, T, V); set to eval mode.
        tokenizer: the fitted tokenizer.
        config: the run's whole configuration, as plain values.
        metrics: the metrics at the time of the checkpoint.
        corpus: fingerprint of the prepared corpus of the training, from the checkpoint; None: unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Tokenizer,
        config: dict[str, Any] | None = None,
        metrics: dict[str, float] | None = None,
        corpus: str | None = None,
    ) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.config = config or {}
        self.metrics = metrics or {}
        self.corpus = corpus

    @property
    def summary(self) -> str:
        """One line: network, parameters, vocabulary, context."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        context = f"{self.max_length:,} tokens of context" if hasattr(self.network, "max_length") else ""
        vocabulary = f"{self.tokenizer.kind} vocabulary of {len(self.tokenizer):,}"
        return ", ".join(
            part for part in (type(self.network).__name__, f"{parameters:,} parameters", vocabulary, context) if part
        )

    def __repr__(self) -> str:
        bits = self.metrics.get("val/bits_per_byte")
        figure = "" if bits is None else f"; val {bits:.3f} bits per byte"
        return f"<{type(self).__name__}: {self.summary}{figure}; on {self.device}>"

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    @property
    def max_length(self) -> int:
        """Tokens of context."""
        return int(self.network.max_length)  # type: ignore[arg-type]

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> str:
        """Return the prompt with its continuation.

        Args:
            prompt: the beginning of the text; trailing spaces are removed.
            max_new_tokens: maximum number of new tokens; fewer if the model ends the article.
            temperature: 0 is greedy; see `minillm.generation.Sampling`.
            top_k: see `minillm.generation.Sampling`.
            top_p: see `minillm.generation.Sampling`.
            repetition_penalty: see `minillm.generation.Sampling`.
            seed: of the draws; None: different draws each time.

        Raises:
            SettingError: an empty prompt, one longer than the context, or a value outside its range.
        """
        return self.generate_batch([prompt], max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed)[0]

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
    ) -> list[str]:
        """Return each prompt with its continuation, generated together; arguments and errors as for `generate`.

        Each text equals that of `generate` with its prompt alone: the first with ``seed``, the next with ``seed + 1``,
        and so on.
        """
        prompts = [prompt.rstrip(" ") for prompt in prompts]
        for prompt in prompts:
            self.check_prompt(prompt, max_new_tokens)
        sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
        continuations = self.continue_batch(prompts, max_new_tokens, sampling, seed)
        return [prompt + continuation for prompt, continuation in zip(prompts, continuations, strict=True)]

    def stream(
        self, prompt: str, max_new_tokens: int = 50, sampling: Sampling | None = None, seed: int | None = None
    ) -> Iterator[str]:
        """Yield the prompt, then its continuation piece by piece; joined, they are the text of `generate`."""
        prompt = prompt.rstrip(" ")
        ids = self.prompt_ids(prompt, max_new_tokens)
        self.check_fits("prompt", prompt, ids)
        yield prompt
        # Decode the whole text each time: a token's text can depend on the token before it.
        written = len(self.tokenizer.decode(ids))
        for tokens in self._generate_tokens([ids], max_new_tokens, sampling, seed):
            ids += [token for token in tokens if token is not None]
            text = self.tokenizer.decode(ids)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # otherwise the last character is incomplete
                yield text[written:]
                written = len(text)
        yield self.tokenizer.decode(ids)[written:]

    def continue_batch(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None = None, seed: int | None = None
    ) -> list[str]:
        """Return the continuations of several prompts, without the prompts; seeds as for `generate_batch`.

        Unlike `generate_batch`, it accepts prompts longer than the context and uses their end.

        Raises:
            SettingError: an empty prompt, or a seed of more than 64 bits.
        """
        ids = [self.prompt_ids(prompt, max_new_tokens) for prompt in prompts]
        written: list[list[int]] = [[] for _ in ids]
        for tokens in self._generate_tokens(ids, max_new_tokens, sampling, seed):
            for row, token in zip(written, tokens, strict=True):
                if token is not None:
                    row.append(token)
        return [self._continuation(prompt, row) for prompt, row in zip(ids, written, strict=True)]

    def _generate_tokens(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling | None, seed: int | None
    ) -> Iterator[list[int | None]]:
        """Yield the tokens of each step without [EOS]; see `minillm.generation.generate_tokens`."""
        network = cast(CachedNetwork, self.network)
        for draw in generate_tokens(network, prompts, max_new_tokens, sampling or Sampling(), seed, self.device):
            yield [None if token == EOS else token for token in draw.tokens]

    def continued(self, prompt: str, ids: Sequence[int]) -> str:
        """Return the text of a prompt followed by tokens.

        With it a text can continue from another token than the one drawn: give the ids of the steps before, then the
        other id.

        Args:
            prompt: the beginning of the text.
            ids: of the tokens; [EOS] adds no text.
        """
        return prompt + self._continuation([BOS, *self.tokenizer.encode(prompt)], ids)

    def _continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        # A token's text can depend on the token before it.
        return self.tokenizer.decode([*prompt, *ids])[len(self.tokenizer.decode(prompt)) :]

    def check_prompt(self, prompt: str, max_new_tokens: int = 0) -> None:
        """Check that a prompt can be continued.

        Raises:
            SettingError: it is empty, not Unicode or longer than the context, or ``max_new_tokens`` is out of range.
        """
        self.check_fits("prompt", prompt, self.prompt_ids(prompt, max_new_tokens))

    def check_fits(self, setting: str, text: str, ids: Sequence[int]) -> None:
        """Check that a text's ids fit into the context.

        Raises:
            SettingError: they do not; it names ``setting``.
        """
        if len(ids) > self.max_length:
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            advice = f"has {len(ids)} tokens with [BOS], the model's context only {self.max_length}; shorten it"
            raise SettingError(setting, repr(shown), advice)

    def prompt_ids(self, prompt: str, max_new_tokens: int = 0) -> list[int]:
        """Return the ids of a prompt, [BOS] first.

        Raises:
            SettingError: it is empty or not Unicode, or ``max_new_tokens`` is out of range.
        """
        if not 0 <= max_new_tokens <= MAX_NEW_TOKENS:
            advice = f"must be at least 0 and at most {MAX_NEW_TOKENS:,}, such as 50"
            raise SettingError("max_new_tokens", max_new_tokens, advice)
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise SettingError("prompt", ascii(prompt), "is not Unicode; is the terminal set to UTF-8?") from error
        ids = [BOS, *self.tokenizer.encode(prompt)]
        if len(ids) == 1:
            raise SettingError("prompt", repr(prompt), "is empty; give at least a word, such as 'En el año 1492,'")
        return ids

    def unknown_words(self, text: str) -> list[str]:
        """Return the words of a text that are not in the vocabulary: the model reads [UNK] instead."""
        return self.tokenizer.unknown_words(text)

    def notice(self, prompt: str) -> str | None:
        """Return a warning about [UNK] for readers of a prompt's continuation; None: there is nothing to warn of.

        It names the prompt's unknown words, and says how often [UNK], which is never generated, is the most probable
        next token within the prompt.

        Raises:
            SettingError: an empty prompt, or one that is not Unicode.
        """
        ids = self.prompt_ids(prompt.rstrip(" "), 0)
        warnings = []
        if unknown := self.unknown_words(prompt):
            shown = ", ".join(map(repr, unknown[:UNKNOWN_SHOWN])) + (", ..." if len(unknown) > UNKNOWN_SHOWN else "")
            warnings.append(f"the model does not know {shown} and reads [UNK] in place of each")
        with torch.inference_mode():
            logits = self.network(torch.tensor([ids[-self.max_length :]], device=self.device))[0]
        likeliest = logits.argmax(dim=-1) == UNK
        if likeliest.any():
            warnings.append(
                f"[UNK], a word outside the vocabulary, is the most probable next token at {int(likeliest.sum())} of "
                f"the prompt's {len(likeliest)} positions; it is never generated, the next most probable word is"
            )
        return "; ".join(warnings) or None

    def surprisal(self, text: str, k: int = 10) -> "pd.DataFrame":
        """Return the surprisal of each token of a text, and the most probable tokens in its place.

        The text is read as by `score`: from [BOS], which is only context, through [EOS], in windows of ``max_length``.
        So the sum of ``bits`` is the text's bits per byte times its bytes.

        Args:
            text: of any length; may be empty.
            k: number of alternatives, at most the vocabulary's size; 0: none.

        Returns:
            One row per token:
            token: its text; an unknown word is shown as it is in the text; ``[EOS]`` at the end.
            id: in the vocabulary, int64.
            start, end: its characters in the text, int64; see `minillm.tokenization.Placed`.
            bits: -log2 of its probability, float64; [UNK] adds 8 bits per byte of the unknown word, and 8 more.
            rank: 1 for the most probable token, int64; equally probable tokens have the same rank.
            probability: float64; for an unknown word, that of [UNK].
            alternatives: list of (text, probability) of the k most probable tokens, the most probable first.

        Raises:
            SettingError: a text that is not Unicode, or k under 0.
            DivergedError: the network's logits are not finite.
        """
        from minillm.inspection.reading import surprisal

        return surprisal(self, text, k)

    def next(self, text: str, k: int = 10) -> "pd.DataFrame":
        """Return the k most probable tokens after a text, the most probable first.

        Args:
            text: the context, without its trailing spaces; only the end is used if it is longer than the model's
                context. Empty: the beginning of an article.
            k: number of tokens, at most the vocabulary's size.

        Returns:
            One row per token: token (its text), id (int64), probability (float64), bits (-log2 probability, float64).

        Raises:
            SettingError: a text that is not Unicode, or k under 1.
            DivergedError: the network's logits are not finite.
        """
        from minillm.inspection.reading import next_tokens

        return next_tokens(self, text, k)

    def tokens(self, text: str) -> list[str]:
        """Return the texts of the T tokens of `attention`: ``[BOS]``, then those of the text.

        Unknown words are shown as they are in the text.

        Raises:
            SettingError: a text that is not Unicode.
        """
        from minillm.inspection.reading import context_tokens

        return context_tokens(self, text)

    def attention(self, text: str) -> np.ndarray:
        """Return the network's attention weights for a text.

        Args:
            text: at most as long as the context; an empty text has one token, [BOS].

        Returns:
            (layers, heads, T, T) float32: the weight of the column's token for the row's token. Rows sum to 1; a
            causal network has zeros above the diagonal. `tokens` returns the T tokens.

        Raises:
            SettingError: a text that is not Unicode or longer than the context, or a network without attention.
        """
        from minillm.inspection.attention import attention_weights

        return attention_weights(self, text)

    def neighbours(self, token: str, k: int = 10) -> "pd.DataFrame":
        """Return the k nearest tokens in the embedding by cosine similarity, the nearest first.

        Args:
            token: a text that is one token, at the beginning of a text or after a space, or a special token's name.
            k: number of tokens, at most the rest of the vocabulary.

        Returns:
            One row per token: token (its text), id (int64), cosine (similarity, float64, -1 to 1).

        Raises:
            SettingError: the text is not one token of the vocabulary, or k is under 1.
        """
        from minillm.inspection.neighbours import neighbours

        return neighbours(self, token, k)

    def steps(
        self,
        prompt: str,
        max_new_tokens: int = 50,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        k: int = 10,
        written: Sequence[int] = (),
    ) -> Iterator["Step"]:
        """Return an iterator over the steps of `generate`: each new token, and the candidates that it was drawn from.

        With the same arguments, the text of the last step equals that of `generate`. The iterator generates a token
        when asked for it.

        Args:
            prompt: as for `generate`.
            max_new_tokens: as for `generate`; a step in which the model ends the article counts.
            temperature: as for `generate`.
            top_k: as for `generate`.
            top_p: as for `generate`.
            repetition_penalty: as for `generate`.
            seed: as for `generate`.
            k: number of candidates per step, at most the vocabulary's size; 0: none.
            written: ids of tokens that already follow the prompt, such as those of earlier steps and then another one
                than was drawn.

        Returns:
            One `minillm.inspection.Step` per new token.

        Raises:
            SettingError: as for `generate`, from this call and not from the iterator; or k is under 0.
            DivergedError: the network's logits are not finite.
        """
        from minillm.inspection.steps import steps

        sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
        return steps(self, prompt, max_new_tokens, sampling, seed, k, written)

    def score(self, texts: str | Sequence[str], batch_size: int = 32) -> dict[str, float]:
        """Score texts, each from [BOS] through [EOS] in windows of ``max_length``.

        Args:
            texts: one or several.
            batch_size: windows per batch.

        Returns:
            nats: total cross-entropy; tokens: number of predicted tokens; bytes: of the texts in UTF-8; bits_per_byte,
            which includes the cost of [UNK]; perplexity = exp(nats / tokens).

        Raises:
            ValueError: there is no text.
        """
        return self.score_documents(
            EncodedTexts([texts] if isinstance(texts, str) else texts, self.tokenizer), batch_size
        )

    def score_documents(self, documents: EncodedDocuments, batch_size: int = 32) -> dict[str, float]:
        """Score documents that this model's tokenizer has encoded; see `score`."""
        windows = Windows(documents, self.max_length)
        metric = LanguageModelling(alone=True).to(self.device)
        with torch.inference_mode():
            for batch in evaluation_loader(windows, EvaluationBatches(windows.lengths, batch_size)):
                on_device = {name: tensor.to(self.device) for name, tensor in batch.items()}
                metric.update(predict(self.network(on_device["inputs"]), on_device["targets"]), on_device)
        figures = {name: value.item() for name, value in metric.compute().items()}
        return {
            "nats": metric.nats.item(),
            "tokens": int(metric.tokens),
            "bytes": int(metric.bytes),
            "bits_per_byte": figures["bits_per_byte"],
            "perplexity": figures["perplexity"],
        }


class EncodedTexts:
    """Encoded documents in memory; the identity of each is a hash of its text.

    Args:
        texts: one per document.
        tokenizer: encodes them.

    Raises:
        ValueError: there is no text.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        if not texts:
            raise ValueError("there is no text to score")
        encoded = tokenizer.encode_batch(texts)
        end = [EOS] if tokenizer.ends else []
        self.documents = [np.array([BOS, *document.ids, *end]) for document in encoded]
        self.page_ids = np.array([identity(text) for text in texts])
        self.lengths = np.array([len(document) for document in self.documents])
        self.bytes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts])
        self.unknown_bytes = np.array([document.unknown_bytes for document in encoded])

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.documents[index]


def identity(text: str) -> int:
    """Return 64 bits of a text's SHA-256, signed: the identity of an article without a page id."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def load(checkpoint: str | Path, device: str | None = None, trusted: Collection[str] = ()) -> LanguageModel:
    """Load a checkpoint of `scripts/train.py`, or a model folder in transformers' format.

    Checkpoints from untrusted sources are safe to load: only miniLLM's own classes are imported.

    Args:
        checkpoint: path of a checkpoint; or of a folder that `scripts/export.py` wrote, or that transformers wrote of a
            GPT-2 or Qwen3 with a byte-level tokenizer (`minillm.export.folder.load_folder`); or ``latest``: the best
            checkpoint of the newest run under ``outputs``.
        device: where to put the model; None: a GPU if there is one, otherwise the CPU.
        trusted: full names of your own classes that the checkpoint may use, such as ``mine.Net``. Importing them runs
            their modules.

    Raises:
        SettingError: no such file, not a complete checkpoint of miniLLM, or a folder that cannot be loaded.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (Path(checkpoint) / "config.json").is_file():
        from minillm.export.folder import load_folder  # imports this module

        return load_folder(checkpoint, device, trusted)
    checkpoint = find_checkpoint(str(checkpoint))
    saved = read_checkpoint(checkpoint)
    try:
        tokenizer = load_tokenizer(saved["tokenizer"])
        model = saved["config"].get("model")
        state = {name.removeprefix("network."): value for name, value in saved["state_dict"].items()}
        if not (isinstance(model, dict) and model.get("_target_") in trusted):
            # Without weights: a file of a kilobyte could describe a network larger than memory.
            with torch.device("meta"):
                check_shapes(build_network(model, len(tokenizer), trusted), state)
        network = build_network(model, len(tokenizer), trusted)
        network.load_state_dict(state)
    except (MiniLLMError, AttributeError, RuntimeError, TypeError) as error:
        raise SettingError("ckpt", checkpoint, f"does not fit together: {' '.join(str(error).split())}") from error
    corpus = (saved.get(TextDataModule.__qualname__) or {}).get("corpus")
    return LanguageModel(network.to(device), tokenizer, saved["config"], saved["metrics"], corpus)


def check_shapes(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that weights have a network's names and shapes.

    Raises:
        TypeError: they do not.
    """
    described = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    held = {name: tuple(weight.shape) for name, weight in state.items()}
    wrong = sorted(name for name in described.keys() | held.keys() if described.get(name) != held.get(name))
    if wrong:
        was, expected = held.get(wrong[0]), described.get(wrong[0])
        raise TypeError(f"{len(wrong)} of its weights, such as {wrong[0]}: {was}, but its settings say {expected}")
