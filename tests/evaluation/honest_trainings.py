"""Honest trainings of many kinds, as settings of scripts/train.py that take seconds each."""

KINDS = (
    ("minigpt", "word", 3000),
    ("gpt2", "bpe", 600),
    ("minigpt_modern", "word", 4000),
    ("minigpt", "bpe", 1000),
    ("gpt2", "word", 4000),
    ("minigpt_modern", "bpe", 600),
    ("minigpt", "word", 5000),
)
SIZES = ((32, 1, 1), (64, 2, 2), (48, 1, 4))  # dimension, blocks, epochs
TWENTY = tuple((seed, *KINDS[seed % len(KINDS)], *SIZES[seed % len(SIZES)], (64, 128)[seed % 2]) for seed in range(20))
"""(seed, model, tokenizer, entries, dimension, blocks, epochs, tokens of context)"""


def settings(case: tuple[int, str, str, int, int, int, int, int]) -> list[str]:
    """Return the settings of a training."""
    seed, model, tokenizer, entries, dimension, blocks, epochs, context = case
    return [
        f"seed={seed}", f"model={model}", f"tokenizer={tokenizer}", f"data.vocab_size={entries}",
        f"model.embedding_dim={dimension}", f"model.num_layers={blocks}", f"trainer.max_epochs={epochs}",
        f"data.max_length={context}", f"data.num_articles={(100, 200)[seed % 2]}", "optimizer.lr=0.003",
    ]  # fmt: skip
