"""Looking inside a trained model: surprisal, alternatives, attention, neighbours, and the steps of generation.

`minillm.LanguageModel` has a method for each; they are implemented here.
"""

from minillm.inspection.steps import Candidate, Step

__all__ = ["Candidate", "Step"]
