"""One file for llama.cpp, Ollama and others: `format=gguf`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from minillm.errors import OutsideError, SettingError
from minillm.export.exporting import TrainedRun, library
from minillm.export.forms import GPT2_MATRICES, to_form
from minillm.export.quiet import quiet
from minillm.tokenization import BOS, EOS, PAD, UNK, BPETokenizer, Tokenizer

PURPOSE = "format=gguf"
NAME = "model.gguf"
PRE_TOKENIZER = "gpt-2"  # llama.cpp's name of our splitting pattern


class Gguf:
    """Writes ``model.gguf`` in float32: MiniGPTModern as architecture qwen3, GPT2 and MiniGPT as gpt2.

    The file is read back and compared bit for bit before the folder gets its name.

    llama.cpp's gpt2 has the tanh form of GELU, MiniGPT the exact one; ``gguf.json`` says how much that changes a logit.
    llama.cpp splits text by patterns that it knows by name, so only plain BPE can be expressed.
    """

    def __call__(self, run: TrainedRun, folder: Path) -> None:
        """Write the files; see `minillm.export.ExportFormat`.

        Raises:
            SettingError: the gguf package is missing, or llama.cpp cannot run such a network or tokenizer.
            OutsideError: the written file differs.
        """
        library("gguf", PURPOSE)
        network, tokenizer = run.model.network, run.model.tokenizer
        vocabulary = vocabulary_of(tokenizer)
        architecture, sizes, tensors = described(network)
        facts: dict[str, Any] = {"architecture": architecture, "max_length": run.model.max_length, "type": "float32"}
        if architecture == "gpt2":
            moved = cost_of_tanh(network, len(tokenizer), run.model.max_length)
            facts["largest_difference_of_a_logit_by_tanh_gelu"] = moved
        with quiet():
            write(folder / NAME, architecture, sizes, tensors, vocabulary)
        check(folder / NAME, tensors, vocabulary)
        (folder / "gguf.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def vocabulary_of(tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Return the tokens by id, and the merges in the order of learning.

    Raises:
        SettingError: llama.cpp cannot encode text like this tokenizer.
    """
    if not isinstance(tokenizer, BPETokenizer):
        advice = "needs tokenizer=bpe: llama.cpp has no vocabulary of whole words, so it would read other ids"
        raise SettingError("format", "gguf", f"{advice}; format=transformers and format=onnx take any tokenizer")
    options = [name for name in ("digits", "names") if getattr(tokenizer, name)]
    if options:
        advice = f"cannot have tokenizer.{options[0]}: llama.cpp's patterns part a text otherwise, so ids would differ"
        raise SettingError("format", "gguf", f"{advice}; format=transformers and format=onnx take any tokenizer")
    model = json.loads(tokenizer.to_json())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {"tokens": [tokenizer.token(number) for number in range(len(tokenizer))], "merges": merges}


def described(network: nn.Module) -> tuple[str, dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Return a network's architecture in llama.cpp, its sizes, and its weights by the file's names.

    llama.cpp has both forms of `minillm.export.forms`.

    Raises:
        SettingError: the network has neither.
    """
    config, state = to_form(network)
    package = library("gguf", PURPOSE)
    if config["model_type"] == "qwen3":
        architecture, layers = package.MODEL_ARCH.QWEN3, config["num_hidden_layers"]
        sizes = {
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "feed_forward_length": config["intermediate_size"],
            "block_count": layers,
            "head_count": config["num_attention_heads"],
            "head_count_kv": config["num_key_value_heads"],
            "key_length": config["head_dim"],
            "value_length": config["head_dim"],
            "layer_norm_rms_eps": config["rms_norm_eps"],
            "rope_freq_base": config["rope_parameters"]["rope_theta"],
        }
    else:
        architecture, layers = package.MODEL_ARCH.GPT2, config["n_layer"]
        sizes = {
            "context_length": config["n_positions"],
            "embedding_length": config["n_embd"],
            "feed_forward_length": 4 * config["n_embd"],
            "block_count": layers,
            "head_count": config["n_head"],
            "layer_norm_eps": config["layer_norm_epsilon"],
        }
        # transformers transposes GPT-2's matrices.
        matrices = tuple(f"{name}.weight" for name in GPT2_MATRICES.values())
        state = {name: weight.T if name.endswith(matrices) else weight for name, weight in state.items()}
    names = package.get_tensor_name_map(architecture, layers)
    tensors = {names.get_name(name, (".weight", ".bias")): weight for name, weight in state.items()}
    arrays = {name: tensor.float().contiguous().numpy() for name, tensor in tensors.items()}
    return package.MODEL_ARCH_NAMES[architecture], sizes, arrays


@torch.no_grad()
def cost_of_tanh(network: nn.Module, vocab_size: int, max_length: int) -> float:
    """Return the largest change of a logit through the tanh form of GELU, over random tokens."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocab_size, (8, max_length)))
    exact = network(ids)
    modules = [module for module in network.modules() if isinstance(module, nn.GELU)]
    activations = [module for module in modules if module.approximate == "none"]
    try:
        for activation in activations:
            activation.approximate = "tanh"
        return (network(ids) - exact).abs().max().item()
    finally:
        for activation in activations:
            activation.approximate = "none"


def write(
    path: Path,
    architecture: str,
    sizes: dict[str, Any],
    tensors: dict[str, NDArray[np.float32]],
    vocabulary: dict[str, list[str]],
) -> None:
    """Write a file of float32.

    Args:
        path: where to.
        architecture: as llama.cpp names it.
        sizes: by the names of the writer's methods, ``add_...``.
        tensors: by the file's names.
        vocabulary: tokens and merges.
    """
    package = library("gguf", PURPOSE)
    writer = package.GGUFWriter(path, architecture)
    try:
        writer.add_type("model")
        writer.add_file_type(package.LlamaFileType.ALL_F32)
        writer.add_vocab_size(len(vocabulary["tokens"]))
        for name, size in sizes.items():
            getattr(writer, f"add_{name}")(size)
        kinds = [package.TokenType.NORMAL] * len(vocabulary["tokens"])
        for special in (PAD, BOS, EOS):
            kinds[special] = package.TokenType.CONTROL
        kinds[UNK] = package.TokenType.UNKNOWN
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(PRE_TOKENIZER)
        writer.add_token_list(vocabulary["tokens"])
        writer.add_token_types(kinds)
        writer.add_token_merges(vocabulary["merges"])
        writer.add_bos_token_id(BOS)
        writer.add_eos_token_id(EOS)
        writer.add_unk_token_id(UNK)
        writer.add_pad_token_id(PAD)
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(False)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def check(path: Path, tensors: dict[str, NDArray[np.float32]], vocabulary: dict[str, list[str]]) -> None:
    """Check that a file has the intended content, bit for bit.

    Raises:
        OutsideError: it does not.
    """
    reader = library("gguf", PURPOSE).GGUFReader(path)
    held = {tensor.name: tensor.data for tensor in reader.tensors}
    wrong = [
        name
        for name in {*held, *tensors}
        if name not in held or name not in tensors or not np.array_equal(held[name], tensors[name])
    ]
    for name, expected in vocabulary.items():
        field = reader.get_field(f"tokenizer.ggml.{name}")
        if (field.contents() if field else None) != expected and (field or expected):
            wrong.append(name)
    if wrong:
        raise OutsideError(f"{NAME} reads otherwise than it was written, such as {sorted(wrong)[0]}")
