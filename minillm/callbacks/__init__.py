"""Lightning callbacks, one per file."""

from minillm.callbacks.bias_evaluation import BiasEvaluation
from minillm.callbacks.bleu_evaluation import BleuEvaluation
from minillm.callbacks.checkpointing import Checkpointing
from minillm.callbacks.early_stopping import EarlyStopping
from minillm.callbacks.elapsed_time import ElapsedTime
from minillm.callbacks.ema import EMA
from minillm.callbacks.gradient_clipping import GradientClipping
from minillm.callbacks.interruption import Interruption
from minillm.callbacks.learning_rate import LearningRate
from minillm.callbacks.learning_rate_finder import LearningRateFinder
from minillm.callbacks.memory import Memory
from minillm.callbacks.progress_bar import ProgressBar
from minillm.callbacks.pruning import Pruning
from minillm.callbacks.random_state import RandomState
from minillm.callbacks.text_samples import TextSamples
from minillm.callbacks.throughput import Throughput
from minillm.callbacks.timely_validation import TimelyValidation

__all__ = [
    "EMA",
    "BiasEvaluation",
    "BleuEvaluation",
    "Checkpointing",
    "EarlyStopping",
    "ElapsedTime",
    "GradientClipping",
    "Interruption",
    "LearningRate",
    "LearningRateFinder",
    "Memory",
    "ProgressBar",
    "Pruning",
    "RandomState",
    "TextSamples",
    "Throughput",
    "TimelyValidation",
]
