"""What a run shows on the terminal; of several processes the first one shows it."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from minillm.command import spelled
from minillm.corpus import ATTRIBUTION, DROPPED, LOCK
from minillm.corpus.corpus import BLAMED, KEEPING
from minillm.evaluation import before_after
from minillm.evaluation.labels import EVALUATED, LABELS, LOGGED, OF_UNKNOWN_WORDS
from minillm.evaluation.results import sample_sentences, verdict_of
from minillm.evaluation.schema import Evaluation, Finding, Verdict

MARKS: dict[Verdict, str] = {
    "fault": "[bold red]FAULT       [/]",
    "weak": "[bold yellow]weak        [/]",
    "fine": "[green]fine        [/]",
    "none": "no verdict  ",
}
BLEU: tuple[Literal["bleu1", "bleu2", "bleu3", "bleu4"], ...] = ("bleu1", "bleu2", "bleu3", "bleu4")
GIVEN = "given"  # in a plan: what the user has decided


def number_table(title: str, first: str, *columns: str, style: str = "none") -> Table:
    """Return an empty table; all columns but the first contain numbers.

    Args:
        title: above the table.
        first: heading of the first column.
        columns: headings of the other columns.
        style: of the text.
    """
    table = Table(first, title=title, title_justify="left", style=style)
    for column in columns:
        table.add_column(column, justify="right")
    return table


@rank_zero_only
def show_data(manifest: Mapping[str, Any], corpus: Path | None = None, console: Console | None = None) -> None:
    """Show the data funnel, from articles read to articles kept, and the size of the splits.

    Args:
        manifest: of the encoded dataset.
        corpus: the prepared corpus's folder, which says what was dropped.
        console: where to show it.
    """
    funnel = number_table("Data funnel", "", "articles")
    for step, count in manifest["corpus"]["reading"].items():
        unit = {"bytes": " B", "seconds": " s"}.get(step, "")
        funnel.add_row(step, "all" if count is None else f"{count:,.0f}{unit}")
    funnel.add_section()
    for step, count in manifest["corpus"]["funnel"].items():
        funnel.add_row(step, f"{count:,}")
    splits = number_table("Splits", "split", "articles", "tokens", "bytes", "\\[UNK]")
    for name, size in manifest["splits"].items():
        splits.add_row(
            name, f"{size['articles']:,}", f"{size['tokens']:,}", f"{size['bytes']:,}", f"{size['unk_rate']:.1%}"
        )
    console = console or Console()
    console.print(funnel)
    for sentence in _told_of(manifest["corpus"], corpus):
        console.print(escape(sentence), highlight=False, soft_wrap=True)
    console.print(splits)


def _told_of(manifest: Mapping[str, Any], corpus: Path | None) -> list[str]:
    """Return sentences about a corpus: dropped articles, its language, cut files."""
    told = []
    dropped = {reason: count for reason, count in manifest["funnel"].items() if reason in BLAMED and count}
    if dropped and corpus and (corpus / DROPPED).exists():
        kept = {KEEPING[reason].format(characters="...") for reason in dropped}
        told.append(f"dropped: each article and its reason are in {corpus / DROPPED}")
        told.append(f"         to keep them: {' '.join(sorted(kept))}")
    if language := manifest.get("language"):
        share = f"{language['share']:.0%} of the articles are in one language, {language['found']}"
        if language["found"] is None:
            told.append("language: the articles are too short to tell it; all are kept")
        elif language["others_dropped"]:
            told.append(f"language: {share}; those in others are dropped")
        else:
            told.append(f"language: {share}, too few to drop the others (data.quality.language=... does)")
    if cut := manifest["source"].get("cut"):
        at = f"at about every {cut['at']:,} characters" if isinstance(cut["at"], int) else f"at {cut['at']}"
        files = "1 file is" if cut["files"] == 1 else f"{cut['files']:,} files are"
        sides = "the beginning is train, then comes val, the end is test"
        if cut["parts"] == "together":
            sides = "all of one file are in the same split"
        told.append(f"cut: {files} cut into articles {at.replace('_', ' ')} (data.source.cut); {sides}")
    return told


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
def show_plan(
    budget: str,
    settings: Iterable[tuple[str, Any, str]],
    sentences: Iterable[str],
    console: Console | None = None,
) -> None:
    """Show a budget's choice and its reasons.

    Args:
        budget: as the user wrote it.
        settings: name, value and reason of each.
        sentences: about what is expected.
        console: where to show it.
    """
    table = Table(title=f"Plan for {escape(budget)}", title_justify="left")
    for name in "setting", "value", "why":
        table.add_column(name, overflow="fold")
    for name, value, reason in settings:
        shown = ", ".join(map(str, dict.fromkeys(value.values()))) if isinstance(value, Mapping) else value
        table.add_row(name, escape(str(shown)), escape(reason), style="dim" if reason == GIVEN else None)
    console = console or Console()
    console.print(table)
    for sentence in sentences:
        console.print(escape(sentence), highlight=False, soft_wrap=True)


@rank_zero_only
def show_network(network: nn.Module, console: Console | None = None) -> None:
    """Show how many parameters each part of a network has."""
    table = number_table(type(network).__name__, "part", "parameters")
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
def show_results(metrics: Mapping[str, float], console: Console | None = None) -> None:
    """Show the figures of the best checkpoint that training logged.

    Args:
        metrics: by logged name, such as ``val/loss``.
        console: where to show them.
    """
    table = number_table("Results (not audited)", "best checkpoint", "val", "test")
    for name in LOGGED:
        label, form = LABELS[name]
        cells = [metrics.get(f"{split}/{name}") for split in ("val", "test")]
        table.add_row(escape(label), *("" if cell is None else f"{cell:{form}}" for cell in cells))
    (console or Console()).print(table)


@rank_zero_only
def show_evaluation(evaluation: Evaluation, console: Console | None = None, name: str = "best checkpoint") -> None:
    """Show an evaluation: samples, figures, and what the audit found; red where the figures cannot be believed.

    Args:
        evaluation: what evaluation.json holds.
        console: where to show it.
        name: what the figures are of.
    """
    console = console or Console()
    verdict = verdict_of(evaluation)
    trusted = verdict != "fault"
    show_samples(
        {sample["prompt"]: sample["prompt"] + sample["generated"] for sample in evaluation["text"]["samples"]}, console
    )
    splits = evaluation["splits"]
    title = "Results" if trusted else "[bold red]Results: NOT TO BE TRUSTED, see the findings[/]"
    table = number_table(title, escape(name), *splits, style="none" if trusted else "red")
    figures = cast(Mapping[str, Mapping[str, float | None]], splits)
    has_unknown_words = any(figures[split].get("unk_rate") for split in splits)
    for name in EVALUATED:
        if has_unknown_words or name not in OF_UNKNOWN_WORDS:
            label, form = LABELS[name]
            cells = (figures[split].get(name) for split in splits)
            table.add_row(escape(label), *("" if cell is None else f"{cell:{form}}" for cell in cells))
            within = [splits[split].get("ci95", {}).get(name) for split in splits]
            if any(within):
                ends = ([f"{end:{form}}" for end in each] if each else [] for each in within)
                table.add_row("  95 % interval", *(" to ".join(each) for each in ends), style="dim")
    table.add_section()
    for model in ("unigram", "bigram"):
        rows = {split: baselines[model]["perplexity"] for split, baselines in evaluation["baselines"].items()}
        table.add_row(
            f"perplexity of a {model} model", *(f"{rows[split]:,.1f}" if split in rows else "" for split in splits)
        )
    console.print(table)
    if warning := cast(Mapping[str, Any], evaluation["audit"]["inflation"]).get("warning"):
        console.print(f"[bold yellow]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    for sentence in sample_sentences(evaluation["data"]):
        console.print(sentence, highlight=False, soft_wrap=True)
    other_text = evaluation["data"]["other_text"]
    if other_text is not None:
        told = f"The test split is other text than the run's own: {other_text}, in the checkpoint's vocabulary."
        console.print(f"[bold yellow]{escape(told)}[/]")
    if "init_from" in evaluation:
        for sentence in before_after.sentences(evaluation["init_from"]):
            console.print(sentence, highlight=False, soft_wrap=True)
    bias, text = evaluation["bias"], evaluation["text"]
    latency, memory = evaluation["latency"], evaluation["memory"]
    overfitting, token = evaluation["overfitting"], latency["token_ms"]
    others = {
        "overfitting": f"ratio {overfitting['ratio']:.3f}, gap {overfitting['gap']:+.4f}" if overfitting else "",
        "bias": f"{bias['prediction_bias']:+,.1f}, absolute {bias['absolute_bias']:,.1f}, "
        f"variance {bias['bias_variance']:,.0f}",
        "distribution": f"KL divergence {bias['kl_divergence']:.4f}, total variation {bias['total_variation']:.4f}, "
        f"calibration error {bias['calibration_error']:.4f}",
        "BLEU-1 to 4": " ".join("none" if text[order] is None else f"{text[order]:.4f}" for order in BLEU),
        "variety": f"distinct-1 {text['distinct1']:.3f}, distinct-2 {text['distinct2']:.3f}, "
        f"repeated 4-grams {text['repetition4']:.1%}",
        "latency": f"{latency['forward_ms']['mean']:.2f} ms ± {latency['forward_ms']['std']:.2f}"
        + (f", a token {token['mean']:.2f} ms ± {token['std']:.2f}" if token else ""),
        "memory": f"{memory['parameters']:,} parameters, {memory['parameter_mib']:.1f} MiB; "
        f"peak {memory['peak_mib']:,.0f} MiB",
    }
    colour = "" if trusted else "[red]"
    for what, value in others.items():
        if not value:
            continue
        console.print(f"{colour}[bold]{what:<12}[/bold]  {value}", highlight=False, soft_wrap=True)
    show_findings(verdict, cast(Mapping[str, Finding], evaluation["audit"]), console)


@rank_zero_only
def show_findings(verdict: Verdict, findings: Mapping[str, Finding], console: Console | None = None) -> None:
    """Show what the audit found.

    Args:
        verdict: on the whole.
        findings: by check.
        console: where to show them.
    """
    console = console or Console()
    console.print(
        {
            "fault": "\n[bold white on red] NOT TO BE TRUSTED: the audit found a fault. [/]",
            "weak": "\n[bold yellow]The audit found no fault. The figures are right, and the model is weak.[/]",
        }.get(verdict, "\n[bold green]The audit found no fault.[/]")
    )
    for name, found in findings.items():
        console.print(f"{MARKS[found['verdict']]}  {name}: {escape(found['finding'])}", highlight=False, soft_wrap=True)


@rank_zero_only
def show_report(report: Path, console: Console | None = None) -> None:
    """Show where the report is."""
    path = escape(os.path.relpath(report))
    (console or Console()).print(f"[bold]report      [/bold]  {path}", soft_wrap=True, highlight=False)


@rank_zero_only
def show_samples(samples: Mapping[str, str], console: Console | None = None) -> None:
    """Show generated texts, their prompts in bold."""
    console = console or Console()
    for prompt, text in samples.items():
        console.print(f"[bold]{escape(prompt)}[/bold]{escape(text[len(prompt) :])}\n", highlight=False)


def _as_word(prompt: str) -> str:
    """Return the setting of a prompt as a shell takes it."""
    plain = not set(prompt) & set('"$`\\!')
    return f'prompt="{prompt}"' if plain else shlex.quote(f"prompt={prompt}")


@rank_zero_only
def show_next_steps(run: str, prompts: Sequence[str] = (), console: Console | None = None) -> None:
    """Show what a run left, and what to do with it.

    Args:
        run: the run's folder.
        prompts: how texts could begin; the first is suggested.
        console: where to show it.
    """
    prompt = next(iter(prompts), "En el año 1492,")
    run = os.path.relpath(run)
    steps = {
        "checkpoints": f"{run}/checkpoints/best.ckpt and last.ckpt",
        "figures": f"{run}/metrics.csv, {run}/train.log",
        **({"report": f"{run}/evaluation/report.html"} if Path(run, "evaluation", "report.html").exists() else {}),
        "dashboard": f"tensorboard --logdir {run}",
        "write": f"{spelled('generate')} ckpt={run}/checkpoints/best.ckpt {_as_word(prompt)}",
    }
    for what, how in steps.items():
        # A command that is broken over two lines cannot be copied.
        (console or Console()).print(f"[bold]{what:<12}[/bold]{escape(how)}", soft_wrap=True, highlight=False)
