"""The audit: whether an evaluation can be trusted. One check per file, for any network that maps ids to logits."""

from minillm.evaluation.audit.alignment import Alignment
from minillm.evaluation.audit.audit import Audit
from minillm.evaluation.audit.causality import Causality
from minillm.evaluation.audit.contamination import Contamination
from minillm.evaluation.audit.determinism import Determinism
from minillm.evaluation.audit.inflation import Inflation
from minillm.evaluation.audit.memorization import Memorization
from minillm.evaluation.audit.plausibility import Plausibility
from minillm.evaluation.audit.position import Position
from minillm.evaluation.audit.selection import Selection
from minillm.evaluation.audit.splits import Splits
from minillm.evaluation.audit.tokenizer import TokenizerCheck

__all__ = [
    "Alignment",
    "Audit",
    "Causality",
    "Contamination",
    "Determinism",
    "Inflation",
    "Memorization",
    "Plausibility",
    "Position",
    "Selection",
    "Splits",
    "TokenizerCheck",
]
