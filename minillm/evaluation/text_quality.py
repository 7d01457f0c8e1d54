"""How close generated text comes to what people wrote, and how much it repeats itself."""

from collections.abc import Iterable, Sequence

from sacrebleu.metrics.bleu import BLEU

from minillm.evaluation.schema import Sample
from minillm.generation import Sampling
from minillm.language_model import LanguageModel
from minillm.parallel import batches

PROMPT_WORDS, REFERENCE_WORDS = 16, 32
# Enough for 32 words in any tokenizer that is of use; a word costs 1.2 to 2 tokens.
MAX_NEW_TOKENS = 3 * REFERENCE_WORDS
ROWS = 64  # prompts continued at once: bounds the memory


def continuation_pairs(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return each text's first 16 words, and the 32 that follow; shorter texts are left out."""
    parted = [text.split() for text in texts]
    long_enough = [words for words in parted if len(words) >= PROMPT_WORDS + REFERENCE_WORDS]
    prompts = [" ".join(words[:PROMPT_WORDS]) for words in long_enough]
    references = [" ".join(words[PROMPT_WORDS:][:REFERENCE_WORDS]) for words in long_enough]
    return prompts, references


def continue_greedily(model: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """Return the first 32 words that the model puts behind each prompt."""
    # Prompts of one length outgrow the window together: then it is read again for all of them at once, not for each.
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
    """Return how varied texts are; words are parted at spaces.

    Returns:
        distinct1, distinct2: distinct words, and pairs of words, of all texts, as shares of their number (Li et al.
        2016); repetition4: share of four-word sequences that their own text has had before.

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
    """Return what the model puts behind each prompt."""
    continuations = model.continue_batch(prompts, max_new_tokens, sampling, seed)
    return [{"prompt": prompt, "generated": text} for prompt, text in zip(prompts, continuations, strict=True)]


def _ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(length)), strict=False))


def _distinct(texts: Sequence[Sequence[tuple[str, ...]]]) -> float:
    number = sum(map(len, texts))
    return len({ngram for text in texts for ngram in text}) / number if number else 0.0
