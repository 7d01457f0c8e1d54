"""What a run shows on the terminal; of several processes the first one shows it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from minillm.corpus import ATTRIBUTION, LOCK


@rank_zero_only
def show_data(manifest: Mapping[str, Any], console: Console | None = None) -> None:
    """Show the data funnel, from articles read to articles kept, and the size of the splits."""
    funnel = Table("", "articles", title="Data funnel", title_justify="left")
    funnel.columns[1].justify = "right"
    for step, count in manifest["corpus"]["reading"].items():
        unit = {"bytes": " B", "seconds": " s"}.get(step, "")
        funnel.add_row(step, "all" if count is None else f"{count:,.0f}{unit}")
    funnel.add_section()
    for step, count in manifest["corpus"]["funnel"].items():
        funnel.add_row(step, f"{count:,}")
    splits = Table("split", "articles", "tokens", "bytes", "\\[UNK]", title="Splits", title_justify="left")
    for column in splits.columns[1:]:
        column.justify = "right"
    for name, size in manifest["splits"].items():
        splits.add_row(
            name, f"{size['articles']:,}", f"{size['tokens']:,}", f"{size['bytes']:,}", f"{size['unk_rate']:.1%}"
        )
    console = console or Console()
    console.print(funnel)
    console.print(splits)


@rank_zero_only
def show_corpus_files(corpus: Path, encoded: Path, console: Console | None = None) -> None:
    """Show where a prepared corpus and its encoded dataset lie.

    Args:
        corpus: the corpus's folder.
        encoded: the encoded dataset's folder.
    """
    files = {"articles": f"{corpus}/train.arrow, val.arrow, test.arrow", "attribution": f"{corpus}/{ATTRIBUTION}"}
    if (corpus / LOCK).exists():
        files["lock"] = f"{corpus}/{LOCK}"
    for what, where in {**files, "encoded": str(encoded)}.items():
        (console or Console()).print(f"[bold]{what:<12}[/bold]{escape(where)}", soft_wrap=True, highlight=False)


@rank_zero_only
def show_network(network: nn.Module, console: Console | None = None) -> None:
    """Show how many parameters each part of a network has."""
    table = Table("part", "parameters", title=type(network).__name__, title_justify="left")
    table.columns[1].justify = "right"
    for name, count in parameters_by_part(network).items():
        table.add_row(name, f"{count:,}")
    table.add_section()
    table.add_row("total", f"{sum(parameters_by_part(network).values()):,}")
    (console or Console()).print(table)


def parameters_by_part(network: nn.Module) -> dict[str, int]:
    """Return the trainable and fixed parameters of each direct child that has any; shared ones count once."""
    seen: set[nn.Parameter] = set()
    parts = {}
    for name, child in network.named_children():
        own = set(child.parameters()) - seen
        seen |= own
        if own:
            parts[name] = sum(parameter.numel() for parameter in own)
    loose = set(network.parameters()) - seen
    if loose:
        parts["other"] = sum(parameter.numel() for parameter in loose)
    return parts


@rank_zero_only
def show_results(
    metrics: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
    console: Console | None = None,
) -> None:
    """Show the figures of the best checkpoint beside the n-gram baselines on the same tokens.

    Args:
        metrics: by logged name, such as ``val/loss``.
        baselines: by split and model, as `NgramBaselines.score` returns them.
    """
    table = Table("best checkpoint", "val", "test", title="Results", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    forms = {"loss": ".4f", "perplexity": ",.1f", "bits_per_byte": ".4f", "accuracy": ".1%", "bleu": ".4f"}
    forms |= {"prediction_bias": "+,.1f"}
    for name, form in forms.items():
        cells = [metrics.get(f"{split}/{name}") for split in ("val", "test")]
        table.add_row(name.replace("_", " "), *("" if cell is None else f"{cell:{form}}" for cell in cells))
    table.add_section()
    for model in ("unigram", "bigram"):
        table.add_row(
            f"perplexity of a {model} model",
            *(f"{baselines[split][model]['perplexity']:,.1f}" for split in ("val", "test")),
        )
    (console or Console()).print(table)


@rank_zero_only
def show_samples(samples: Mapping[str, str], console: Console | None = None) -> None:
    """Show generated texts, their prompts in bold."""
    console = console or Console()
    for prompt, text in samples.items():
        console.print(f"[bold]{escape(prompt)}[/bold]{escape(text[len(prompt) :])}\n", highlight=False)


@rank_zero_only
def show_next_steps(run: str, console: Console | None = None) -> None:
    """Show what a run left, and what to do with it.

    Args:
        run: the run's folder.
    """
    run = os.path.relpath(run)
    steps = {
        "checkpoints": f"{run}/checkpoints/best.ckpt and last.ckpt",
        "figures": f"{run}/metrics.csv, {run}/train.log",
        "dashboard": f"tensorboard --logdir {run}",
        "write": f'python scripts/generate.py ckpt={run}/checkpoints/best.ckpt prompt="En el año 1492,"',
    }
    for what, how in steps.items():
        # A command that is broken over two lines cannot be copied.
        (console or Console()).print(f"[bold]{what:<12}[/bold]{escape(how)}", soft_wrap=True, highlight=False)
