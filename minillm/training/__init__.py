"""Training: the loss, the schedule, the LightningModule and the trainer."""

from minillm.training.csv_logger import MetricsCSV
from minillm.training.hyperparameters import log_hyperparameters
from minillm.training.losses import TokenLosses, cross_entropy, linear_cross_entropy
from minillm.training.metrics import LanguageModelling
from minillm.training.module import TrainingModule
from minillm.training.optimizers import Muon, adamw
from minillm.training.schedules import warmup_schedule
from minillm.training.seeding import seed_everything
from minillm.training.tensorboard_logger import TensorBoard
from minillm.training.trainer import build_trainer

__all__ = [
    "LanguageModelling",
    "MetricsCSV",
    "Muon",
    "TensorBoard",
    "TokenLosses",
    "TrainingModule",
    "adamw",
    "build_trainer",
    "cross_entropy",
    "linear_cross_entropy",
    "log_hyperparameters",
    "seed_everything",
    "warmup_schedule",
]
