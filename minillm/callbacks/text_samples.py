"""Samples of generated text at each validation."""

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from minillm.errors import SettingError
from minillm.generation import MAX_NEW_TOKENS, Sampling
from minillm.language_model import LanguageModel
from minillm.training import TrainingModule
from minillm.training.sharding import is_sharded


class TextSamples(L.Callback):
    """Writes continued prompts to TensorBoard's text tab at each validation.

    Args:
        prompts: the beginnings of the texts.
        max_new_tokens: maximum tokens of a continuation.
        temperature: see `minillm.generation.Sampling`.
        top_p: see `minillm.generation.Sampling`.
        seed: the same each time, so that only the model changes the samples.

    Raises:
        SettingError: an empty prompt, or a value outside its range.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 60,
        temperature: float = 0.8,
        top_p: float | None = 0.9,
        seed: int = 0,
    ) -> None:
        if not all(prompt.strip() for prompt in prompts):
            raise SettingError("prompts", list(prompts), "must not be empty texts; [] writes no samples")
        if not 0 <= max_new_tokens <= MAX_NEW_TOKENS:
            advice = f"must be at least 0 and at most {MAX_NEW_TOKENS:,}, such as 60"
            raise SettingError("max_new_tokens", max_new_tokens, advice)
        self.prompts, self.max_new_tokens, self.seed = list(prompts), max_new_tokens, seed
        self.sampling = Sampling(temperature=temperature, top_p=top_p)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Generate and write."""
        assert isinstance(pl_module, TrainingModule)
        # A sharded network needs all processes.
        if not self.prompts or not (trainer.is_global_zero or is_sharded(pl_module.network)):
            return
        samples = self.sample(LanguageModel(pl_module.network, pl_module.tokenizer))
        step = trainer.fit_loop.epoch_loop._batches_that_stepped  # at which Lightning logs the validation's metrics
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for prompt, text in samples.items():
                    logger.experiment.add_text(f"samples/{prompt}", text, step)

    def sample(self, model: LanguageModel) -> dict[str, str]:
        """Return the text of each prompt, with the prompt."""
        continuations = model.continue_batch(self.prompts, self.max_new_tokens, self.sampling, self.seed)
        return {prompt: prompt + continuation for prompt, continuation in zip(self.prompts, continuations, strict=True)}
