"""Load a folder of transformers as a model of this project, without running any code in it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from minillm.checkpoint import build_network
from minillm.command import named
from minillm.errors import MiniLLMError, OutsideError, SettingError
from minillm.export.forms import as_minigpt, from_form, node_of
from minillm.export.tokenizers import Opened, open_tokenizer
from minillm.files import SUMS, damaged_files, problem_of
from minillm.language_model import LanguageModel, check_shapes
from minillm.numerics import all_finite

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that only this project reads.
OWN, OWN_TENSORS = "minillm.json", "minillm.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
PROBE_TOKENS = 64  # on which the least expected token is found


def load_folder(path: str | Path, device: str, trusted: Collection[str] = ()) -> LanguageModel:
    """Return the model of a folder with ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    A folder of this project gives the exported network, bit for bit. Other folders, in the form of GPT-2 or Qwen3, give
    the logits of transformers; the vocabulary gets this project's order, see `open_tokenizer`.

    Args:
        path: the folder.
        device: where to put the network.
        trusted: as for `minillm.load`.

    Raises:
        SettingError: another form; weights that are not in safetensors, missing, too many, of other shapes or not
            finite; or a tokenizer that cannot be used.
        OutsideError: a file cannot be read.
    """
    folder = Path(path)
    try:
        _check_whole(folder)
        config, own = _read(folder / "config.json"), _read_if_there(folder / OWN)
        node = node_of(config)
        state = from_form(config, _weights(folder))
        opened = _tokenizer(folder, config)
        if own is not None and (network := _own_network(folder, own, state, opened, trusted)) is not None:
            saved, metrics = (_object(own, name) for name in ("config", "metrics"))
            corpus = own.get("corpus") if isinstance(own.get("corpus"), str) else None
            return LanguageModel(
                network.to(device), opened.tokenizer, {**saved, "model": own["model"]}, metrics, corpus
            )
        network, node = _their_network(node, config, state, opened)
        return LanguageModel(network.to(device), opened.tokenizer, {"model": node})
    except SettingError as error:
        if error.setting == "ckpt":
            raise
        raise SettingError("ckpt", path, f"{error.setting} {_short(error.value)} {error.advice}") from error
    except OSError as error:
        raise OutsideError(f"{path} cannot be read: {problem_of(error)}") from error
    except (MiniLLMError, AttributeError, KeyError, RuntimeError, TypeError, ValueError, RecursionError) as error:
        raise SettingError("ckpt", path, f"does not fit together: {' '.join(str(error).split())}") from error


def _object(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = own.get(name)
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_whole(folder: Path) -> None:
    """Check the SHA-256 of the files that are read, if the folder has sums."""
    read = {WEIGHTS, INDEX, OWN, OWN_TENSORS, "config.json", "tokenizer.json", "tokenizer_config.json", SUMS}
    if not (folder / SUMS).is_file():
        return
    if damaged := sorted(read & set(damaged_files(folder))):
        advice = f"is damaged or was changed since it was written; copy it again, or remove {SUMS} if that was you"
        raise SettingError("ckpt", folder / damaged[0], advice)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        advice = f"is not there; a folder that {named('export')} or transformers wrote has it"
        raise SettingError("ckpt", path, advice) from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SettingError("ckpt", path, "is damaged: no JSON") from error
    if not isinstance(content, dict):
        raise SettingError("ckpt", path, "is damaged: no JSON object")
    return content


def _read_if_there(path: Path) -> dict[str, Any] | None:
    return _read(path) if path.is_file() else None


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder, in float32.

    Raises:
        SettingError: there are none in safetensors, or they are damaged.
    """
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file():
        if not (folder / INDEX).is_file():
            pickled = next((file.name for kind in PICKLED for file in folder.glob(kind)), None)
            held = f"holds {pickled}, which could run code on opening, and" if pickled else "holds"
            raise SettingError("ckpt", folder, f"{held} no {WEIGHTS}; transformers' save_pretrained writes it")
        listed = _read(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise SettingError("ckpt", folder / INDEX, "is damaged: it names no files")
        names = sorted(set(listed.values()))
        if outside := next((name for name in names if Path(name).name != name), None):
            raise SettingError("ckpt", folder / INDEX, f"names a file outside the folder: {_short(outside)}")
    state: dict[str, Tensor] = {}
    for name in names:
        state |= _tensors(folder / name)
    return state


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SettingError("ckpt", path, "is not there, though the index names it")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise SettingError("ckpt", path, f"is damaged, or no safetensors ({_short(error)})") from error
    for name, tensor in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # masks in old files
        if not tensor.is_floating_point():
            advice = f"has {_short(name)} in {tensor.dtype}; only weights that are plain numbers are read"
            raise SettingError("ckpt", path, advice)
    if not all_finite(tensor for tensor in tensors.values() if tensor.is_floating_point()):
        raise SettingError("ckpt", path, "has weights that are not finite")
    return {name: tensor.float() for name, tensor in tensors.items()}


def _tokenizer(folder: Path, config: Mapping[str, Any]) -> Opened:
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        advice = "is not there; transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it"
        raise SettingError("ckpt", path, advice) from error
    except UnicodeDecodeError as error:
        raise SettingError("ckpt", path, "is damaged: no UTF-8") from error
    try:
        return open_tokenizer(text, _read_if_there(folder / "tokenizer_config.json") or {}, config)
    except OutsideError as error:
        raise SettingError("ckpt", path, str(error)) from error


def _own_network(
    folder: Path, own: dict[str, Any], state: dict[str, Tensor], opened: Opened, trusted: Collection[str]
) -> nn.Module | None:
    """Return the exported network; None: its weights have changed since."""
    model = own.get("model")
    if not isinstance(model, dict):
        raise SettingError("ckpt", folder / OWN, "is damaged: it describes no model")
    if str(model.get("_target_", "")).endswith("MiniGPT"):
        kept = _tensors(folder / OWN_TENSORS).get("embedding.weight") if (folder / OWN_TENSORS).is_file() else None
        minigpt = as_minigpt(state, kept)
        if minigpt is None:
            return None
        state = minigpt
    return _filled(model, len(opened.tokenizer), state, trusted)


def _filled(
    model: dict[str, Any], vocab_size: int, state: dict[str, Tensor], trusted: Collection[str] = ()
) -> nn.Module:
    """Return a network with the given weights.

    Raises:
        TypeError: their names or shapes are not the network's.
    """
    # On the meta device: a small file could describe a network that fills the memory.
    with torch.device("meta"):
        outline = build_network(model, vocab_size, trusted)
    if outline.head.weight is outline.embedding.weight and "embedding.weight" in state:  # type: ignore[union-attr]
        state = {**state, "head.weight": state["embedding.weight"]}
    check_shapes(outline, state)
    network = build_network(model, vocab_size, trusted)
    network.load_state_dict(state)
    return network.eval()


def _their_network(
    node: dict[str, Any], config: Mapping[str, Any], state: dict[str, Tensor], opened: Opened
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of another project's folder, in the order of the tokenizer's ids, and its ``model`` node.

    If the folder lacks a special token, the head is untied, so that beginning and end stay distinct, and the new
    token's row is that of the least expected token: it takes almost nothing from the other probabilities.
    """
    size = config.get("vocab_size")
    embedding = state.get("embedding.weight")
    if embedding is None or embedding.ndim != 2:
        raise TypeError("it has no embedding")
    theirs = _filled(node, len(embedding) if not isinstance(size, int) else size, state, ())
    if max(opened.embedded) >= len(embedding):
        raise TypeError(f"the tokenizer has id {max(opened.embedded)}, the model only {len(embedding)} tokens")
    embedded = torch.tensor(opened.embedded)
    if opened.embedded == list(range(len(embedding))) and None not in opened.predicted:
        return theirs, node
    head = theirs.get_parameter("head.weight").detach()
    lacks = None in opened.predicted
    if lacks:
        seen = embedded[torch.linspace(0, len(embedded) - 1, min(PROBE_TOKENS, len(embedded))).long()]
        with torch.inference_mode():
            expected = theirs(seen[:, None])[:, 0].log_softmax(dim=-1).amax(dim=0)
        least = int(expected[embedded].argmin())
        node = {**node, "tie_head": False}
    rows = [opened.embedded[least] if old is None else old for old in opened.predicted]
    state = {**theirs.state_dict(), "embedding.weight": embedding[embedded], "head.weight": head[torch.tensor(rows)]}
    return _filled(node, len(embedded), state), node
