"""BLEU of continued articles at each validation."""

import itertools

import lightning as L

from minillm.errors import SettingError
from minillm.evaluation.text_quality import bleu_scores, continuation_pairs, continue_greedily
from minillm.language_model import LanguageModel
from minillm.training import TrainingModule


class BleuEvaluation(L.Callback):
    """Logs ``bleu``, the BLEU-4 of greedy continuations of validation and test articles; see `bleu_scores`.

    Every process computes the same value from the same articles.

    Args:
        max_articles: articles to continue, the first ones of the split; bounds the time.

    Raises:
        SettingError: max_articles under 1.
    """

    def __init__(self, max_articles: int = 32) -> None:
        if max_articles < 1:
            raise SettingError("max_articles", max_articles, "must be at least 1, such as 32")
        self.max_articles = max_articles

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation BLEU."""
        self._log("val", trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the test BLEU."""
        self._log("test", trainer, pl_module)

    def _log(self, split: str, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        data = trainer.datamodule  # type: ignore[attr-defined]
        texts = (row["text"] for row in data.corpus.articles(split))
        prompts, references = continuation_pairs(itertools.islice(texts, self.max_articles))
        if prompts:
            continuations = continue_greedily(LanguageModel(pl_module.network, pl_module.tokenizer), prompts)
            pl_module.log(f"{split}/bleu", bleu_scores(continuations, references)["bleu4"])
