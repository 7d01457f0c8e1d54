"""How close generated text comes to what people wrote."""

from collections.abc import Iterable, Sequence

from sacrebleu.metrics.bleu import BLEU

from minillm.generation import Sampling
from minillm.language_model import LanguageModel

PROMPT_WORDS, REFERENCE_WORDS = 16, 32
# Enough for 32 words in any tokenizer that is of use; a word costs 1.2 to 2 tokens.
MAX_NEW_TOKENS = 3 * REFERENCE_WORDS


def continuation_pairs(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return each text's first 16 words, and the 32 that follow; shorter texts are left out."""
    parted = [text.split() for text in texts]
    long_enough = [words for words in parted if len(words) >= PROMPT_WORDS + REFERENCE_WORDS]
    prompts = [" ".join(words[:PROMPT_WORDS]) for words in long_enough]
    references = [" ".join(words[PROMPT_WORDS:][:REFERENCE_WORDS]) for words in long_enough]
    return prompts, references


def continue_greedily(model: LanguageModel, prompts: Sequence[str]) -> list[str]:
    """Return the first 32 words that the model puts behind each prompt."""
    continuations = model.continue_batch(prompts, MAX_NEW_TOKENS, Sampling(temperature=0))
    return [" ".join(text.split()[:REFERENCE_WORDS]) for text in continuations]


def bleu_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU-1 to BLEU-4 (Papineni et al. 2002) over the corpus, cumulative, 0 to 1, by sacrebleu."""
    scores = {}
    for order in range(1, 5):
        scores[f"bleu{order}"] = BLEU(max_ngram_order=order).corpus_score(hypotheses, [references]).score / 100
    return scores
