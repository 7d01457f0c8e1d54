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
"""For a check's verdict, the checks whose faults explain it: a fault is reported once, by the check that found its
cause."""


@dataclass(frozen=True)
class Audit:
    """The checks, each with its thresholds and the reasons for them.

    Args:
        determinism: does the same text always give the same figures?
        causality: does the network see the tokens that it predicts?
        alignment: does the network predict the next token?
        contamination: is validation or test text in the training text?
        memorization: has the network memorized its training text?
        splits: are val and test disjoint, and of the same kind?
        tokenizer: does it preserve text, and was it fitted without val and test?
        inflation: do the reported figures exclude padding, and do few words count as [UNK]?
        position: are the figures independent of where windows are cut?
        selection: is test better than val by more than chance?
        plausibility: are the figures possible?
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
    """Return the sentences of the checks: faults first, then weak, then fine."""
    return [found["finding"] for found in sorted(findings.values(), key=lambda found: ORDER.index(found["verdict"]))]


def is_trustworthy(findings: Mapping[str, Finding]) -> bool:
    """Return whether no check found a fault; a weak model's figures are correct."""
    return all(found["verdict"] != "fault" for found in findings.values())
