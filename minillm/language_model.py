"""A trained model in the hand: load it, let it write, let it score."""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from minillm.checkpoint import build_network, find_checkpoint, read_checkpoint
from minillm.data import TextDataModule
from minillm.data.batching import EvaluationBatches, Windows, evaluation_loader
from minillm.data.subset import IdentifiedDocuments
from minillm.errors import MiniLLMError, SettingError
from minillm.generation import MAX_NEW_TOKENS, CachedNetwork, Sampling, generate_tokens
from minillm.tokenization import BOS, EOS, UNK, Tokenizer, load_tokenizer
from minillm.training.metrics import LanguageModelling
from minillm.training.predictions import predict

if TYPE_CHECKING:
    import pandas as pd

    from minillm.inspection import Step

UNKNOWN_SHOWN = 10  # words of a prompt that are not known


class LanguageModel:
    """A network with its tokenizer.

    Args:
        network: maps ids (B, T) to logits (B, T, V); it is put in eval mode.
        tokenizer: the fitted tokenizer of its ids.
        config: the run's whole configuration, as plain values.
        metrics: the figures at the time of the checkpoint.
        corpus: fingerprint of the prepared corpus that it learned from, as the checkpoint says; None: unknown.
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
        """What it is, in a few words: network, parameters, vocabulary, context."""
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
        """Where the network is."""
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
            prompt: how the text begins; spaces at its end are left out.
            max_new_tokens: tokens at most; fewer when the model ends the article.
            temperature: 0 is greedy; see `minillm.generation.Sampling`, also for the next three.
            top_k: see there.
            top_p: see there.
            repetition_penalty: see there.
            seed: of the draws; None: other ones each time.

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
        """Return each prompt with its continuation, all generated at once; arguments and errors as for `generate`.

        Each text is what `generate` gives for its prompt alone: the first with this seed, the next with ``seed + 1``,
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
        """Yield the prompt, then its continuation as it is generated; together they are what `generate` returns."""
        prompt = prompt.rstrip(" ")
        ids = self.prompt_ids(prompt, max_new_tokens)
        self.check_fits("prompt", prompt, ids)
        yield prompt
        # What comes is the difference between the decoded texts: a tokenizer may need the token before to decode one.
        written = len(self.tokenizer.decode(ids))
        steps = generate_tokens(
            cast(CachedNetwork, self.network), [ids], max_new_tokens, sampling or Sampling(), seed, self.device
        )
        for step in steps:
            ids += [token for token in step if token is not None]
            text = self.tokenizer.decode(ids)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else a character is still incomplete
                yield text[written:]
                written = len(text)
        yield self.tokenizer.decode(ids)[written:]

    def continue_batch(
        self, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None = None, seed: int | None = None
    ) -> list[str]:
        """Return the continuations of several prompts, generated at once, without the prompts themselves.

        Of a prompt longer than the context the end is seen. The draws of each prompt are as `generate_batch` says.

        Raises:
            SettingError: an empty prompt, or a seed of more than 64 bits.
        """
        ids = [self.prompt_ids(prompt, max_new_tokens) for prompt in prompts]
        written: list[list[int]] = [[] for _ in ids]
        steps = generate_tokens(
            cast(CachedNetwork, self.network), ids, max_new_tokens, sampling or Sampling(), seed, self.device
        )
        for step in steps:
            for row, token in zip(written, step, strict=True):
                if token is not None:
                    row.append(token)
        return [self._continuation(prompt, row) for prompt, row in zip(ids, written, strict=True)]

    def continued(self, prompt: str, ids: Sequence[int]) -> str:
        """Return a prompt with tokens put after it, as `generate` does.

        So a text can go on from another token than the one that was drawn: the ids of the steps before, then the other.

        Args:
            prompt: how the text begins.
            ids: of the tokens; [EOS] adds nothing.
        """
        return prompt + self._continuation([BOS, *self.tokenizer.encode(prompt)], ids)

    def _continuation(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        # A tokenizer may need the token before to decode one.
        return self.tokenizer.decode([*prompt, *ids])[len(self.tokenizer.decode(prompt)) :]

    def check_prompt(self, prompt: str, max_new_tokens: int = 0) -> None:
        """Check that a prompt can be continued.

        Raises:
            SettingError: it is empty, no Unicode, or longer than the context; or a number of tokens that cannot be.
        """
        self.check_fits("prompt", prompt, self.prompt_ids(prompt, max_new_tokens))

    def check_fits(self, setting: str, text: str, ids: Sequence[int]) -> None:
        """Check that a text's ids are no more than the context has places.

        Raises:
            SettingError: they are more; it names the setting that the text is.
        """
        if len(ids) > self.max_length:
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            advice = f"has {len(ids)} tokens with [BOS], the model's context only {self.max_length}; shorten it"
            raise SettingError(setting, repr(shown), advice)

    def prompt_ids(self, prompt: str, max_new_tokens: int = 0) -> list[int]:
        """Return the ids that a prompt is continued from, [BOS] first.

        Raises:
            SettingError: it is empty or no Unicode; or a number of tokens that cannot be.
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
        """Return the words of a text that the model does not know: it reads [UNK] in their place."""
        return self.tokenizer.unknown_words(text)

    def notice(self, prompt: str) -> str | None:
        """Return what whoever reads a continuation of a prompt should know; None where the model knows all its words.

        Which of its words the model does not know, and whether [UNK], which is never written, is what it finds
        likeliest after them.

        Raises:
            SettingError: an empty prompt, or one that is not Unicode.
        """
        ids = self.prompt_ids(prompt.rstrip(" "), 0)
        told = []
        if unknown := self.unknown_words(prompt):
            shown = ", ".join(map(repr, unknown[:UNKNOWN_SHOWN])) + (", ..." if len(unknown) > UNKNOWN_SHOWN else "")
            told.append(f"the model does not know {shown} and reads [UNK] in place of each")
        with torch.inference_mode():
            logits = self.network(torch.tensor([ids[-self.max_length :]], device=self.device))[0]
        likeliest = logits.argmax(dim=-1) == UNK
        if likeliest.any():
            told.append(
                f"[UNK], a word outside its vocabulary, is what it finds likeliest at {int(likeliest.sum())} of the "
                f"prompt's {len(likeliest)} places; it is never written, the next likeliest word is"
            )
        return "; ".join(told) or None

    def surprisal(self, text: str, k: int = 10) -> "pd.DataFrame":
        """Return how much each token of a text surprises the model, and what it expected there instead.

        Read as `score` reads it: from [BOS], which is context alone, through [EOS], in windows of ``max_length``;
        so ``bits`` add up to its bits per byte times the text's bytes.

        Args:
            text: of any length, an empty one too.
            k: alternatives, at most the whole vocabulary; 0: none.

        Returns:
            One row per token:
            token: its text; what [UNK] hides is shown as it stands; ``[EOS]`` at the end.
            id: in the vocabulary, int64.
            start, end: its characters in the text, int64; see `minillm.tokenization.Placed`.
            bits: -log2 of its probability, float64; [UNK] pays 8 for each byte that it hides, and 8 more.
            rank: 1 for the most probable token there, int64; as probable ones share it.
            probability: float64; of an unknown word the probability of [UNK].
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
            text: what stands before, spaces at its end left out; of more than the context the end is seen. Empty: an
                article's beginning.
            k: tokens, at most the whole vocabulary.

        Returns:
            One row per token: token (its text), id (int64), probability (float64), bits (-log2 of it, float64).

        Raises:
            SettingError: a text that is not Unicode, or k under 1.
            DivergedError: the network's logits are not finite.
        """
        from minillm.inspection.reading import next_tokens

        return next_tokens(self, text, k)

    def tokens(self, text: str) -> list[str]:
        """Return the texts of the T tokens that `attention` is over: ``[BOS]``, then the text's own.

        What [UNK] hides is shown as it stands.

        Raises:
            SettingError: a text that is not Unicode.
        """
        from minillm.inspection.reading import context_tokens

        return context_tokens(self, text)

    def attention(self, text: str) -> np.ndarray:
        """Return where the network looks as it reads a text.

        Args:
            text: at most as long as the context; an empty one has one token, [BOS].

        Returns:
            (layers, heads, T, T) float32: how much the token of a row looks at that of a column. Rows sum to 1; a
            causal network has zeros above the diagonal. `tokens` names the T tokens.

        Raises:
            SettingError: a text that is not Unicode or longer than the context, or a network without attention.
        """
        from minillm.inspection.attention import attention_weights

        return attention_weights(self, text)

    def neighbours(self, token: str, k: int = 10) -> "pd.DataFrame":
        """Return the k tokens whose embeddings point the way that a token's does, the nearest first.

        Args:
            token: what is one token of the vocabulary, as it stands at a text's beginning or after a space, or the name
                of a special one.
            k: tokens, at most the rest of the vocabulary.

        Returns:
            One row per token: token (its text), id (int64), cosine (of the angle between the two, float64, -1 to 1).

        Raises:
            SettingError: it is not one token of the vocabulary, or k under 1.
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
        """Return an iterator over the steps in which `generate` would write: each token, and what it was drawn from.

        With the same arguments the last step's text is what `generate` returns. A token is generated when the iterator
        is asked for it.

        Args:
            prompt: as for `generate`, also the next six.
            max_new_tokens: see there; a step in which the model ends the article counts.
            temperature: see there.
            top_k: see there.
            top_p: see there.
            repetition_penalty: see there.
            seed: see there.
            k: candidates shown at each step, at most the whole vocabulary; 0: none.
            written: ids of tokens that stand after the prompt already, such as those of earlier steps and then another
                one than was drawn: the writing goes on from there.

        Returns:
            One `minillm.inspection.Step` per new token.

        Raises:
            SettingError: as from `generate`, at once; or k under 0.
            DivergedError: the network's logits are not finite.
        """
        from minillm.inspection.steps import steps

        sampling = Sampling(temperature, top_k, top_p, repetition_penalty)
        return steps(self, prompt, max_new_tokens, sampling, seed, k, written)

    def score(self, texts: str | Sequence[str], batch_size: int = 32) -> dict[str, float]:
        """Return how well the model predicts texts, each from [BOS] through [EOS] in windows of ``max_length``.

        Args:
            texts: one or several.
            batch_size: windows at once.

        Returns:
            nats: total cross-entropy; tokens: how many were predicted; bytes: of the texts in UTF-8; bits_per_byte, in
            which [UNK] tokens pay for what they hide; perplexity = exp(nats / tokens).

        Raises:
            ValueError: there is no text.
        """
        return self.score_documents(
            EncodedTexts([texts] if isinstance(texts, str) else texts, self.tokenizer), batch_size
        )

    def score_documents(self, documents: IdentifiedDocuments, batch_size: int = 32) -> dict[str, float]:
        """Return what `score` does, of documents in this model's tokens, [BOS] first and [EOS] last."""
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
    """Texts in memory, encoded, as `minillm.data.subset.IdentifiedDocuments`; a text's identity is its hash.

    Args:
        texts: one a document.
        tokenizer: what encodes them.

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
    """Return 64 bits of a text's SHA-256, signed: which article it is, where nothing else says so."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def load(checkpoint: str | Path, device: str | None = None, trusted: Collection[str] = ()) -> LanguageModel:
    """Return the model of a checkpoint that `scripts/train.py` wrote, or of a folder in transformers' form.

    Args:
        checkpoint: path of the file, or of a folder that `scripts/export.py` wrote, or transformers of a GPT-2 or Qwen3
            with a byte-level tokenizer (`minillm.export.folder.load_folder`). It may come from anywhere, for nothing is
            imported that it names. ``latest``: the best checkpoint of the newest run under ``outputs``.
        device: where to put it; None: a GPU where there is one, else the processor.
        trusted: full names of your own classes that it may name all the same, such as ``mine.Net``: to import them runs
            their modules.

    Raises:
        SettingError: no such file, not a whole checkpoint of miniLLM, or a folder that cannot be opened.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if (Path(checkpoint) / "config.json").is_file():
        from minillm.export.folder import load_folder  # which needs this module

        return load_folder(checkpoint, device, trusted)
    checkpoint = find_checkpoint(str(checkpoint))
    saved = read_checkpoint(checkpoint)
    try:
        tokenizer = load_tokenizer(saved["tokenizer"])
        model = saved["config"].get("model")
        state = {name.removeprefix("network."): value for name, value in saved["state_dict"].items()}
        if not (isinstance(model, dict) and model.get("_target_") in trusted):
            # Without memory: a file of a kilobyte could describe a network that fills the machine's.
            with torch.device("meta"):
                check_shapes(build_network(model, len(tokenizer), trusted), state)
        network = build_network(model, len(tokenizer), trusted)
        network.load_state_dict(state)
    except (MiniLLMError, AttributeError, RuntimeError, TypeError) as error:
        raise SettingError("ckpt", checkpoint, f"does not fit together: {' '.join(str(error).split())}") from error
    corpus = (saved.get(TextDataModule.__qualname__) or {}).get("corpus")
    return LanguageModel(network.to(device), tokenizer, saved["config"], saved["metrics"], corpus)


def check_shapes(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Check that weights are those of a network.

    Raises:
        TypeError: others.
    """
    described = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    held = {name: tuple(weight.shape) for name, weight in state.items()}
    wrong = sorted(name for name in described.keys() | held.keys() if described.get(name) != held.get(name))
    if wrong:
        was, expected = held.get(wrong[0]), described.get(wrong[0])
        raise TypeError(f"{len(wrong)} of its weights, such as {wrong[0]}: {was} where its settings say {expected}")
