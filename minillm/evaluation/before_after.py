"""The effect of a training from existing weights: before and after, on the new and on the old text."""

from collections.abc import Collection
from pathlib import Path

from minillm.data import TextDataModule
from minillm.data.subset import bounded
from minillm.evaluation.schema import BeforeAfter, Scored
from minillm.evaluation.text import training_data_if_at_hand
from minillm.language_model import LanguageModel


def before_and_after(
    init_from: str,
    before: LanguageModel,
    after: LanguageModel,
    data: TextDataModule,
    trusted: Collection[str] = (),
) -> BeforeAfter:
    """Return the figures of both models on the new test split and, if it is available, on the old one.

    Each model reads windows of its own context length. Both have the same tokenizer, so their losses are comparable.

    Args:
        init_from: where the first model is from.
        before: the first model.
        after: the trained model.
        data: the training's prepared data.
        trusted: as for `minillm.load`.
    """
    old = training_data_if_at_hand(before, data.data_dir, trusted)
    tests = {"new": data, "old": old}
    home = before.device
    before.network.to(after.device)
    try:
        scored = {
            name: None if module is None else _scored(before, after, module, data.max_test_tokens)
            for name, module in tests.items()
        }
    finally:
        before.network.to(home)
    return {"init_from": str(Path(init_from)), "new": scored["new"], "old": scored["old"]}


def _scored(before: LanguageModel, after: LanguageModel, data: TextDataModule, max_tokens: int | None) -> Scored:
    test = bounded(data.splits["test"], max_tokens)
    figures = {name: model.score_documents(test) for name, model in (("before", before), ("after", after))}
    kept = ("bits_per_byte", "perplexity")
    first, second = ({name: figures[which][name] for name in kept} for which in ("before", "after"))
    return {"before": first, "after": second, "tokens": int(figures["after"]["tokens"])}


def sentences(compared: BeforeAfter) -> list[str]:
    """Return what was learned and what was forgotten: a sentence per test split."""
    found = []
    for name, label in ("new", "the new test split"), ("old", "the test split of before"):
        scored = compared["new"] if name == "new" else compared["old"]
        if scored is None:
            found.append(f"On {label} nothing is compared: its text is not available.")
            continue
        first, second = scored["before"]["bits_per_byte"], scored["after"]["bits_per_byte"]
        change = f"{abs(second / first - 1):.1%} {'less' if second < first else 'more'}"
        found.append(
            f"On {label} ({scored['tokens']:,} tokens): {first:.4f} bits per byte before, {second:.4f} after "
            f"({change}); "
            f"perplexity {scored['before']['perplexity']:,.2f} and {scored['after']['perplexity']:,.2f}."
        )
    return found
