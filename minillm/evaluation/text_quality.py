"""Quality of generated text: BLEU against human text, diversity and repetition."""

from collections.abc import Iterable, Sequence

from sacrebleu.metrics.bleu import BLEU

from minillm.evaluation.schema import Sample
from minillm.generation import Sampling
from minillm.language_model import LanguageModel
from minillm.parallel import batches

PROMPT_WORDS, REFERENCE_WORDS = 16, 32
# Enough for 32 words with any useful tokenizer: a word takes 1.2 to 2 tokens.
MAX_NEW_TOKENS = 3 * REFERENCE_WORDS
ROWS = 64  # prompts continued together, which bounds the memory


def continuation_pairs(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return each text's first 16 words, and the next 32; shorter texts are skipped."""
    split = [text.split() for text in texts]
    long_enough = [words for words in split if len(words) >= PROMPT_WORDS + REFERENCE_WORDS]
    prompts = [" ".join(words[:PROMPT_WORDS]) for words in long_enough]
    references = [" ".join(words[PROMPT_WORDS:][:REFERENCE_WORDS]) for words in long_enough]
    return prompts, references


def continue_greedily(model: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """Return the first 32 words of the model's continuation of each prompt."""
    # Sorted by length, since prompts of one length exceed the window together, and it is encoded again once for all.
    order = sorted(range(len(prompts)), key=lambda number: len(model.tokenizer.encode(prompts[number])))
    continuations = [""] * len(prompts)
    for chosen in batches(order, ROWS):
        texts = model.continue_batch([prompts[number] for number in chosen], MAX_NEW_TOKENS, Sampling(temperature=0))
        for number, text in zip(chosen, texts, strict=True):
            continuations[number] = " ".join(text.split()[:REFERENCE_WORDS])
    return continuations


def bleu_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU-1 to BLEU-4 (Papineni et al. 2002) over the corpus, cumulative, 0 to 1, by sacrebleu."""
    scores = {}
    for order in range(1, 5):
        scores[f"bleu{order}"] = BLEU(max_ngram_order=order).corpus_score(hypotheses, [references]).score / 100
    return scores


def diversity(texts: Sequence[str]) -> dict[str, float]:
    """Return the diversity of texts, with words split at spaces.

    Returns:
        distinct1, distinct2: shares of distinct words, and distinct pairs of words, over all texts (Li et al. 2016);
        repetition4: share of four-word sequences that occurred before in the same text.

    >>> diversity(["a b a b a b a b"])
    {'distinct1': 0.25, 'distinct2': 0.2857142857142857, 'repetition4': 0.6}
    """
    words = [text.split() for text in texts]
    ones, twos, fours = ([_ngrams(text, length) for text in words] for length in (1, 2, 4))
    number = sum(map(len, fours))
    return {
        "distinct1": _distinct(ones),
        "distinct2": _distinct(twos),
        "repetition4": sum(len(text) - len(set(text)) for text in fours) / number if number else 0.0,
    }


def sample(
    model: LanguageModel, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling, seed: int
) -> list[Sample]:
    """Return the model's continuation of each prompt."""
    continuations = model.continue_batch(prompts, max_new_tokens, sampling, seed)
    return [{"prompt": prompt, "generated": text} for prompt, text in zip(prompts, continuations, strict=True)]


def _ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def _distinct(texts: Sequence[Sequence[tuple[str, ...]]]) -> float:
    number = sum(map(len, texts))
    return len({ngram for text in texts for ngram in text}) / number if number else 0.0
