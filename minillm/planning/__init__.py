"""From a budget of time and a text to settings: ``python scripts/train.py budget=10min``.

- `minillm.planning.machine`: how fast this machine trains, measured in a few seconds
- `minillm.planning.laws`: what a network learns from how much text; the numbers are in laws.yaml
- `minillm.planning.choosing`: from both to settings, a pure function
- `minillm.planning.budget`: from the command line to a configuration
- `minillm.planning.fit`: makes laws.yaml again
"""

from minillm.planning.budget import budget_arguments, is_to_choose, planned, with_checked_budget, with_form

__all__ = ["budget_arguments", "is_to_choose", "planned", "with_checked_budget", "with_form"]
