"""What a trained model expects where: surprisal, alternatives, attention, neighbours, and each step of its writing.

`minillm.LanguageModel` has a method for each question; what they return is made here.
"""

from minillm.inspection.steps import Candidate, Step

__all__ = ["Candidate", "Step"]
