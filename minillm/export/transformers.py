"""A folder that transformers opens with nothing of this project installed: `format=transformers`."""

from pathlib import Path

from minillm.export.exporting import TrainedRun


class Transformers:
    """Writes a model as transformers' own GPT2LMHeadModel or Qwen3ForCausalLM, with tokenizer and model card."""

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files; see `minillm.export.ExportFormat`."""
        raise NotImplementedError
