import math

import pytest

from minillm.evaluation.text_quality import bleu_scores, continuation_pairs, continue_greedily
from minillm.language_model import LanguageModel


def test_the_first_16_words_are_the_prompt_and_the_next_32_the_reference() -> None:
    words = [f"palabra{n}" for n in range(60)]
    prompts, references = continuation_pairs([" ".join(words), " ".join(words[:48]), " ".join(words[:47]), ""])
    assert prompts == [" ".join(words[:16])] * 2  # the shorter texts are left out
    assert references == [" ".join(words[16:48])] * 2


def test_bleu_is_one_for_the_same_text_and_nearly_nothing_for_another() -> None:
    texts = ["el río nace en la sierra y cruza la ciudad", "la guerra duró tres años y medio en el norte"]
    assert bleu_scores(texts, texts) == pytest.approx({f"bleu{n}": 1.0 for n in (1, 2, 3, 4)})
    assert max(bleu_scores(["uno dos tres cuatro cinco"], texts[:1]).values()) < 0.1


def test_bleu_can_be_done_by_hand() -> None:
    # Of 6 words 5 are in the reference, of 5 pairs 3, of 4 triples 1; as long as the reference, so no penalty.
    scores = bleu_scores(["el río nace lejos en la"], ["el río nace en la sierra"])
    assert scores["bleu1"] == pytest.approx(5 / 6)
    assert scores["bleu2"] == pytest.approx(math.sqrt(5 / 6 * 3 / 5))
    assert scores["bleu3"] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4) ** (1 / 3))
    # Shorter than the reference: a penalty of exp(1 - 6 / 3).
    assert bleu_scores(["el río nace"], ["el río nace en la sierra"])["bleu1"] == pytest.approx(math.exp(1 - 6 / 3))


def test_continuations_are_the_models_own_most_probable_words(trained: LanguageModel) -> None:
    prompts = ["La ciudad de", "El río"]
    continuations = continue_greedily(trained, prompts)
    for prompt, continuation in zip(prompts, continuations, strict=True):
        words = trained.generate(prompt, 96, temperature=0)[len(prompt) :].split()
        assert continuation == " ".join(words[:32])
