"""The result of a check."""

from typing import Any, get_args

from minillm.evaluation.schema import Verdict

Finding = dict[str, Any]
"""``verdict``, ``finding``, ``threshold`` and the check's own figures; see `minillm.evaluation.schema.Finding`."""

ORDER: tuple[Verdict, ...] = get_args(Verdict)
"""The verdicts, the most important first."""


def finding(verdict: Verdict, sentence: str, threshold: float, **figures: Any) -> Finding:
    """Return the result of a check.

    Args:
        verdict: ``fault``, ``weak``, ``fine``, or ``none`` if nothing could be checked; see
            `minillm.evaluation.schema.Verdict`.
        sentence: one sentence with the check's figure and threshold.
        threshold: the value that the check compared with.
        figures: the check's own figures, as plain values.
    """
    return {"verdict": verdict, "finding": sentence, "threshold": threshold, **figures}
