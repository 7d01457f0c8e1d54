"""A folder that transformers opens without this project: `format=transformers`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minillm.export import tokenizers
from minillm.export.card import write_card
from minillm.export.exporting import TrainedRun
from minillm.export.folder import OWN, OWN_TENSORS, WEIGHTS
from minillm.export.forms import to_form, unscaled
from minillm.language_model import LanguageModel
from minillm.models import MiniGPT
from minillm.tokenization import BOS, EOS, PAD

VERSION = 1
# Parts of the configuration about model, data and training; the rest names folders of this machine.
TOLD = ("data", "tokenizer", "model", "optimizer", "scheduler", "training", "seed", "init_from")


class Transformers:
    """Writes a model as transformers' own GPT2LMHeadModel or Qwen3ForCausalLM, with tokenizer and model card."""

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files; see `minillm.export.ExportFormat`."""
        write_model(run.model, folder)
        form = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
        write_card(run, folder, form, told(run.model.config))


def write_model(model: LanguageModel, folder: Path) -> None:
    """Write weights, configuration and tokenizer of a model into a folder.

    Args:
        model: its network has a form in `minillm.export.forms`.
        folder: exists.

    Raises:
        SettingError: another network.
    """
    network = model.network
    config, state = to_form(network)
    config |= {
        "dtype": str(next(iter(state.values())).dtype).removeprefix("torch."),
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }
    generation = {
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.9,
    }
    own = {
        "schema": VERSION,
        "model": model.config.get("model"),
        "config": told(model.config),
        "metrics": model.metrics,
        "corpus": model.corpus,
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    if kept := _not_given_back(network, state):
        save_file(kept, folder / OWN_TENSORS)
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", generation)
    (folder / "tokenizer.json").write_text(tokenizers.to_json(model.tokenizer), encoding="utf-8")
    _write(folder / "tokenizer_config.json", tokenizers.settings(model.max_length))
    _write(folder / OWN, own)


def _not_given_back(network: torch.nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that the form does not restore bit for bit: a division by sqrt(dim) may round."""
    if not isinstance(network, MiniGPT):
        return {}
    embedding = network.embedding.weight.detach().cpu()
    if torch.equal(unscaled(state["transformer.wte.weight"]), embedding):
        return {}
    return {"embedding.weight": embedding}


def told(value: Any) -> Any:
    """Return the settings of model, data and training, without folders of this machine."""

    def clean(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: clean(child) for key, child in node.items() if key not in ("data_dir", "contact", "_partial_")}
        if isinstance(node, list):
            return [clean(child) for child in node]
        return Path(node).name if isinstance(node, str) and Path(node).is_absolute() else node

    return {key: clean(value[key]) for key in TOLD if key in value}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
