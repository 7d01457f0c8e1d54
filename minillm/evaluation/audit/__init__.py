"""The audit: can an evaluation be believed? One check a file; each works on any network that maps ids to logits."""

from minillm.evaluation.audit.alignment import Alignment
from minillm.evaluation.audit.audit import Audit
from minillm.evaluation.audit.causality import Causality
from minillm.evaluation.audit.contamination import Contamination
from minillm.evaluation.audit.inflation import Inflation
from minillm.evaluation.audit.memorization import Memorization
from minillm.evaluation.audit.plausibility import Plausibility

__all__ = [
    "Alignment",
    "Audit",
    "Causality",
    "Contamination",
    "Inflation",
    "Memorization",
    "Plausibility",
]
