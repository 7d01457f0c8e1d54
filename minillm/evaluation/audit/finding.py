"""What a check says."""

from typing import Any, get_args

from minillm.evaluation.schema import Verdict

Finding = dict[str, Any]
"""``verdict``, ``finding``, ``threshold`` and the check's own figures; see `minillm.evaluation.schema.Finding`."""

ORDER: tuple[Verdict, ...] = get_args(Verdict)
"""The verdicts, the one that a reader must see first at the front."""


def finding(verdict: Verdict, sentence: str, threshold: float, **figures: Any) -> Finding:
    """Return the outcome of a check.

    Args:
        verdict: ``fault``, ``weak``, ``fine``, or ``none`` where nothing could be checked; see
            `minillm.evaluation.schema.Verdict`.
        sentence: one plain sentence with its figure.
        threshold: what it was compared with.
        figures: the check's own figures: plain values.
    """
    return {"verdict": verdict, "finding": sentence, "threshold": threshold, **figures}
