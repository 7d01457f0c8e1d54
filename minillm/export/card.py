"""The model card: README.md of an exported folder, with the head that the hub reads."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, cast

import jinja2
import yaml

from minillm.corpus import ATTRIBUTION, LOCK
from minillm.corpus.fingerprint import is_fingerprint
from minillm.evaluation import before_after
from minillm.evaluation.labels import LABELS
from minillm.evaluation.results import figures, sample_sentences
from minillm.export.exporting import TrainedRun

ROWS = (
    *((*LABELS[name], name) for name in ("loss", "perplexity", "bits_per_byte", "accuracy")),
    ("tokens", ",", "tokens"),
)
# How the hub names licences; any other is "other".
LICENCES = {
    "CC0": "cc0-1.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC BY 4.0": "cc-by-4.0",
}


def _line(value: object) -> str:
    """Return text as one line of Markdown without tags, code fences or table edges."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def write_card(run: TrainedRun, folder: Path, form: str, settings: dict[str, Any]) -> None:
    """Write ``README.md``; copy the attribution and the lock of the prepared text, if it is there.

    Args:
        run: the model.
        folder: the exported folder.
        form: the class that opens it in transformers.
        settings: of the training, as plain values.
    """
    model, evaluation = run.model, run.evaluation
    data = model.config.get("data") or {}
    manifest: dict[str, Any] = {}
    licences: list[str] = []
    revisions = 0
    corpus = run.data_dir / "corpus" / str(model.corpus)
    if is_fingerprint(model.corpus) and (corpus / "manifest.json").is_file() and (corpus / ATTRIBUTION).is_file():
        manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
        for name in ATTRIBUTION, LOCK:
            if (corpus / name).is_file():
                shutil.copyfile(corpus / name, folder / name)
        with (corpus / ATTRIBUTION).open(encoding="utf-8", newline="") as file:
            seen: set[str] = set()
            for row in csv.DictReader(file, dialect="excel-tab"):
                seen.add(row["licence"] or "not known")
                revisions += row["revision_id"] not in ("", "0")
            licences = sorted(seen)
    language = str((data.get("quality") or {}).get("language") or "")
    source = str((manifest.get("source") or {}).get("name") or _source(data))
    known = [LICENCES.get(licence, "other") for licence in licences] or ["other"]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("minillm.export"),
        autoescape=False,  # Markdown: `line` escapes text from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = _line
    environment.filters["written"] = format
    origin = (manifest.get("reading") or {}).get("origin")
    audit = cast(dict[str, Any], evaluation["audit"]) if evaluation else {}
    parts = ("overfitting", "bias", "text", "latency", "memory")
    others = {name: f"{value:,.4g}" for name, value in figures(evaluation or {}).items() if name.startswith(parts)}
    page = environment.get_template("card.md.jinja").render(
        name=str(settings.get("name") or f"miniLLM {form}"),
        language=language if 2 <= len(language) <= 3 else "",
        license=known[0] if len(set(known)) == 1 else "other",
        form=form,
        evaluation=evaluation,
        failed=[check["finding"] for check in audit.values() if check["verdict"] == "fault"],
        rows=ROWS,
        others=others,
        samples=sample_sentences(evaluation["data"]) if evaluation else [],
        changed=before_after.sentences(evaluation["init_from"]) if evaluation and "init_from" in evaluation else [],
        parameters=sum(weight.numel() for weight in model.network.parameters()),
        max_length=model.max_length,
        start=_basename(model.config.get("init_from")),
        source=source,
        origin=json.dumps(origin, ensure_ascii=False) if origin else "",
        splits=manifest.get("splits"),
        revisions=revisions,
        licences=licences,
        tokenizer=model.tokenizer.kind,
        vocab_size=len(model.tokenizer),
        settings=yaml.safe_dump(settings, allow_unicode=True, sort_keys=False),
    )
    (folder / "README.md").write_text(page, encoding="utf-8")


def _source(data: dict[str, Any]) -> str:
    target = str((data.get("source") or {}).get("_target_") or "unknown")
    return target.rpartition(".")[2].removesuffix("Source").lower() or "unknown"


def _basename(path: Any) -> str:
    return Path(path).name if isinstance(path, str) else ""
