"""All checks together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from minillm.evaluation.audit.alignment import Alignment
from minillm.evaluation.audit.causality import Causality
from minillm.evaluation.audit.contamination import Contamination
from minillm.evaluation.audit.finding import ORDER, Finding
from minillm.evaluation.audit.inflation import Inflation
from minillm.evaluation.audit.memorization import Memorization
from minillm.evaluation.audit.plausibility import Plausibility
from minillm.evaluation.schema import Verdict
from minillm.evaluation.subject import Subject

CAUSES: dict[Verdict, tuple[str, ...]] = {
    "fault": ("causality", "alignment", "contamination", "memorization"),
    "weak": ("causality", "alignment"),
    "fine": (),
    "none": (),
}
"""Checks whose faults explain a plausibility that is not fine."""


@dataclass(frozen=True)
class Audit:
    """The checks, each with its threshold and the reason for it.

    Args:
        causality: does the network see what it is to predict?
        alignment: is the next token what is predicted?
        contamination: was the text that judges the network also learned from?
        memorization: does the network know its training text by heart?
        inflation: are the reported figures those of the text?
        plausibility: can the figures be at all?
    """

    causality: Causality = field(default_factory=Causality)
    alignment: Alignment = field(default_factory=Alignment)
    contamination: Contamination = field(default_factory=Contamination)
    memorization: Memorization = field(default_factory=Memorization)
    inflation: Inflation = field(default_factory=Inflation)
    plausibility: Plausibility = field(default_factory=Plausibility)

    def __call__(self, subject: Subject) -> dict[str, Finding]:
        """Return the finding of each check."""
        findings = {
            "causality": self.causality(subject),
            "alignment": self.alignment(subject),
            "contamination": self.contamination(subject),
            "memorization": self.memorization(subject),
            "inflation": self.inflation(subject),
        }
        causes = [name for name, found in findings.items() if found["verdict"] == "fault"]
        found = self.plausibility(subject)
        # It is the symptom; the fault is named once, by the check that found its cause: a wrong claim is none, and only
        # a network that learned another task comes out behind counting for it.
        causes = [name for name in causes if name in CAUSES[found["verdict"]]]
        if causes:
            found |= {"verdict": "none", "finding": f"{found['finding'][:-1]} (see {' and '.join(causes)})."}
        return {**findings, "plausibility": found}


def sentences(findings: Mapping[str, Finding]) -> list[str]:
    """Return what the checks say: faults first, then what is weak, then what is fine."""
    return [found["finding"] for found in sorted(findings.values(), key=lambda found: ORDER.index(found["verdict"]))]


def is_trustworthy(findings: Mapping[str, Finding]) -> bool:
    """Return whether no check found a fault: a weak model's figures are right."""
    return all(found["verdict"] != "fault" for found in findings.values())
