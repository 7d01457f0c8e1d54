"""All checks together."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from minillm.evaluation.audit.alignment import Alignment
from minillm.evaluation.audit.causality import Causality
from minillm.evaluation.audit.contamination import Contamination
from minillm.evaluation.audit.determinism import Determinism
from minillm.evaluation.audit.finding import ORDER, Finding
from minillm.evaluation.audit.inflation import Inflation
from minillm.evaluation.audit.memorization import Memorization
from minillm.evaluation.audit.plausibility import Plausibility
from minillm.evaluation.audit.position import Position
from minillm.evaluation.audit.selection import Selection
from minillm.evaluation.audit.splits import Splits
from minillm.evaluation.audit.tokenizer import TokenizerCheck
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

CAUSES: Mapping[tuple[str, Verdict], tuple[str, ...]] = {
    ("causality", "fault"): ("determinism",),
    ("alignment", "fault"): ("causality",),
    ("inflation", "fault"): ("determinism",),
    ("position", "fault"): ("determinism", "contamination", "memorization"),
    ("selection", "fault"): ("contamination", "splits"),
    ("plausibility", "fault"): ("causality", "alignment", "contamination", "memorization", "position", "selection"),
    ("plausibility", "weak"): ("determinism", "causality", "alignment"),
}
"""Of what a check found, the checks whose faults explain it: a fault is named once, where its cause is found. A wrong
claim explains nothing, and only a network that learned another task comes out behind counting for it."""


@dataclass(frozen=True)
class Audit:
    """The checks, each with its threshold and the reason for it.

    Args:
        determinism: does the same text get the same figures each time?
        causality: does the network see what it is to predict?
        alignment: is the next token what is predicted?
        contamination: was the text that judges the network also learned from?
        memorization: does the network know its training text by heart?
        splits: are val and test apart from each other and of the same kind?
        tokenizer: does it keep the text, and was it made without val and test?
        inflation: are the reported figures those of the text?
        position: are the figures those of the text, and not of where its windows are cut?
        selection: is test no better than val by more than chance?
        plausibility: can the figures be at all?
    """

    determinism: Determinism = field(default_factory=Determinism)
    causality: Causality = field(default_factory=Causality)
    alignment: Alignment = field(default_factory=Alignment)
    contamination: Contamination = field(default_factory=Contamination)
    memorization: Memorization = field(default_factory=Memorization)
    splits: Splits = field(default_factory=Splits)
    tokenizer: TokenizerCheck = field(default_factory=TokenizerCheck)
    inflation: Inflation = field(default_factory=Inflation)
    position: Position = field(default_factory=Position)
    selection: Selection = field(default_factory=Selection)
    plausibility: Plausibility = field(default_factory=Plausibility)

    def __call__(self, subject: Subject) -> dict[str, Finding]:
        """Return the finding of each check."""
        findings = {check.name: getattr(self, check.name)(subject) for check in fields(self)}
        faults = [name for name, found in findings.items() if found["verdict"] == "fault"]
        for name, found in findings.items():
            causes = [cause for cause in CAUSES.get((name, found["verdict"]), ()) if cause in faults]
            if causes:
                found |= {"verdict": "none", "finding": f"{found['finding'][:-1]} (see {' and '.join(causes)})."}
        return findings


def sentences(findings: Mapping[str, Finding]) -> list[str]:
    """Return what the checks say: faults first, then what is weak, then what is fine."""
    return [found["finding"] for found in sorted(findings.values(), key=lambda found: ORDER.index(found["verdict"]))]


def is_trustworthy(findings: Mapping[str, Finding]) -> bool:
    """Return whether no check found a fault: a weak model's figures are right."""
    return all(found["verdict"] != "fault" for found in findings.values())
