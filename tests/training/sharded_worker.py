"""What `test_fsdp.py` has two processes do: trainings, whose figures and checkpoints it compares.

    torchrun --standalone --nproc-per-node=2 sharded_worker.py CASES.json

Of each case the first process writes a JSON file of figures beside its checkpoint.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from minillm.callbacks import BleuEvaluation, Checkpointing, GradientClipping, RandomState
from minillm.corpus import Cleaner, DuplicateFilter, QualityFilter, SampleSource
from minillm.data import TextDataModule
from minillm.errors import MiniLLMError
from minillm.models import GPT2, MiniGPT, MiniGPTModern
from minillm.tokenization import WordTokenizer
from minillm.training import Muon, TrainingModule, adamw, build_trainer, seed_everything, warmup_schedule
from minillm.training.sharding import is_sharded, local

NETWORKS: dict[str, type[nn.Module]] = {"minigpt": MiniGPT, "modern": MiniGPTModern, "gpt2": GPT2}
MAX_NORM = 0.3


class Recorder(L.Callback):
    """Keeps each step's figures."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.clipped: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        squares = torch.tensor(0.0, dtype=torch.float64)
        for parameter in pl_module.parameters():
            assert parameter.grad is not None
            squares += local(parameter.grad).double().square().sum()
        if is_sharded(pl_module.network):  # type: ignore[arg-type]
            torch.distributed.all_reduce(squares)
        self.clipped.append(squares.sqrt().item())

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.steps.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def run(
    folder: Path,
    name: str,
    model: str,
    strategy: str,
    steps: int,
    optimizer: str = "adamw",
    ckpt_path: str | None = None,
    recompute: bool = False,
    devices: int = 2,
) -> dict[str, Any]:
    """Train, leave ``NAME/last.ckpt``, return the figures."""
    seed_everything(0)
    data = TextDataModule(
        source=SampleSource(),
        cleaning=Cleaner(),
        quality=QualityFilter(),
        duplicates=DuplicateFilter(),
        tokenizer=WordTokenizer(),
        vocab_size=401,  # which two processes cannot halve
        max_length=64,
        batch_size=4,
        num_workers=0,
        num_articles=60,
        data_dir=os.environ["MINILLM_DATA_DIR"],
    )
    data.prepare_data()
    data.setup()
    sizes: dict[str, Any] = {"max_length": 64, "embedding_dim": 36, "num_layers": 3, "num_heads": 2, "dropout": 0.1}
    kind = NETWORKS[model]
    module = TrainingModule(
        kind(len(data.tokenizer), **sizes),
        data.tokenizer,
        optimizer=partial(Muon, lr=0.01) if optimizer == "muon" else partial(adamw, lr=0.003),
        scheduler=partial(warmup_schedule, warmup=5),
        settings={"model": {"_target_": f"{kind.__module__}.{kind.__name__}", **sizes}, "data": {"max_length": 64}},
    )
    recorder, checkpointing = Recorder(), Checkpointing(str(folder / name))
    trainer = build_trainer(
        accelerator="cpu",
        precision="32-true",
        strategy=strategy,
        devices=devices,
        activation_checkpointing=recompute,
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=4,
        val_check_interval=25,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        default_root_dir=folder,
        callbacks=[
            RandomState(0),
            GradientClipping(MAX_NORM),
            recorder,
            BleuEvaluation(max_articles=2),
            checkpointing,
        ],
    )
    module.check_trainer(trainer)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return {
        "sharded": is_sharded(module.network),
        "held": sum(local(parameter).numel() for parameter in module.network.parameters()),
        "clipped": recorder.clipped,
        "steps": recorder.steps,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = json.loads(Path(sys.argv[1]).read_text())
    for case in cases:
        try:
            figures = run(Path(sys.argv[1]).parent, **case)
        except MiniLLMError as error:
            figures = {"error": str(error)}
        name = case["name"] if os.environ["RANK"] == "0" else f"{case['name']}.second"
        (Path(sys.argv[1]).parent / f"{name}.json").write_text(json.dumps(figures))
