"""What a check says."""

from typing import Any

Finding = dict[str, Any]
"""``passed``, ``finding``, ``threshold`` and the check's own figures; see `minillm.evaluation.schema.Finding`."""


def finding(passed: bool | None, sentence: str, threshold: float, **figures: Any) -> Finding:
    """Return the outcome of a check.

    Args:
        passed: None where nothing could be checked.
        sentence: one plain sentence with its figure.
        threshold: what it was compared with.
        figures: the check's own figures: plain values.
    """
    return {"passed": passed, "finding": sentence, "threshold": threshold, **figures}
