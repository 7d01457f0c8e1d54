"""The project's networks in transformers' two forms, GPT2LMHeadModel and Qwen3ForCausalLM, and back.

- `MiniGPTModern` is Qwen3, `GPT2` is GPT-2: names differ, and GPT-2's matrices are transposed (Conv1D).
- `MiniGPT` becomes GPT-2 exactly: its embedding times sqrt(dim) becomes the embedding, its sinusoidal table the learned
  positions, with the exact GELU and an untied head.

Nothing here needs transformers: a form is a `config.json` and tensors by name.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minillm.errors import SettingError
from minillm.models import GPT2, MiniGPT, MiniGPTModern
from minillm.models.minigpt import sinusoidal_positions

QWEN3 = {
    "attention.norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "attention.projection": "self_attn.o_proj",
    "feedforward.norm": "post_attention_layernorm",
    "feedforward.gate": "mlp.gate_proj",
    "feedforward.up": "mlp.up_proj",
    "feedforward.down": "mlp.down_proj",
}
GPT2_NORMS = {"attention_norm": "ln_1", "feedforward_norm": "ln_2"}
GPT2_MATRICES = {
    "attention.query_key_value": "attn.c_attn",
    "attention.projection": "attn.c_proj",
    "feedforward.0": "mlp.c_fc",
    "feedforward.2": "mlp.c_proj",
}
GELUS = {"none": "gelu", "tanh": "gelu_new"}
FORMS = ("GPT2LMHeadModel", "Qwen3ForCausalLM")

# Settings of features that the networks lack, with the value that turns each off.
QWEN3_ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rms_norm_eps": 1e-6,
    "quantization_config": None,
    "rope_scaling": None,
}
GPT2_ONLY = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
    "quantization_config": None,
}


def to_form(network: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the ``config.json`` and the tensors with which transformers computes the same as a network.

    Args:
        network: a `MiniGPT`, `GPT2` or `MiniGPTModern`; no subclass, which could compute something else.

    Raises:
        SettingError: another network.
    """
    config: dict[str, Any]
    if type(network) is MiniGPTModern:
        config, state = qwen3_config(network), qwen3_state_dict(network)
        config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **config}
    elif isinstance(network, GPT2 | MiniGPT) and type(network) in (GPT2, MiniGPT):
        config, state = _gpt2(network)
    else:
        name = f"{type(network).__module__}.{type(network).__qualname__}"
        advice = "has no form that other programs know; minigpt, gpt2 and minigpt_modern have"
        raise SettingError("model._target_", name, advice)
    return config, {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


def qwen3_config(network: MiniGPTModern) -> dict[str, Any]:
    """Return the arguments of transformers' Qwen3Config that describe a network."""
    return {
        "vocab_size": network.embedding.num_embeddings,
        "hidden_size": network.embedding.embedding_dim,
        "intermediate_size": network.get_parameter("blocks.0.feedforward.gate.weight").size(0),
        "num_hidden_layers": len(network.blocks),
        "num_attention_heads": network.num_heads,
        "num_key_value_heads": network.num_kv_heads,
        "head_dim": network.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": network.max_length,
        "rms_norm_eps": network.norm.eps,
        "rope_theta": network.rope_theta,  # where versions before 5 look for it
        "rope_parameters": {"rope_type": "default", "rope_theta": network.rope_theta},
        "tie_word_embeddings": network.head.weight is network.embedding.weight,
    }


def qwen3_state_dict(network: MiniGPTModern) -> dict[str, Tensor]:
    """Return a network's weights under Qwen3's names, unchanged."""
    state = {
        "model.embed_tokens.weight": network.embedding.weight,
        "model.norm.weight": network.norm.weight,
    }
    if network.head.weight is not network.embedding.weight:
        state["lm_head.weight"] = network.head.weight
    for number, block in enumerate(network.blocks):
        for ours, theirs in QWEN3.items():
            state[f"model.layers.{number}.{theirs}.weight"] = block.get_parameter(f"{ours}.weight")
    return {name: weight.detach() for name, weight in state.items()}


def _gpt2(network: GPT2 | MiniGPT) -> tuple[dict[str, Any], dict[str, Tensor]]:
    dim = network.embedding.embedding_dim
    embedding = network.embedding.weight
    if isinstance(network, MiniGPT):
        gelu = "none"
        positions = sinusoidal_positions(network.max_length, dim).to(embedding)
        embedding = embedding * math.sqrt(dim)
    else:
        gelu = network.blocks[0].get_submodule("feedforward.1.0").approximate  # type: ignore[assignment]
        positions = network.position_embedding.weight
    tied = network.head.weight is network.embedding.weight
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": network.embedding.num_embeddings,
        "n_positions": network.max_length,
        "n_embd": dim,
        "n_layer": len(network.blocks),
        "n_head": network.num_heads,
        "activation_function": GELUS[gelu],
        "layer_norm_epsilon": network.norm.eps,
        "tie_word_embeddings": tied,
    }
    state = {
        "transformer.wte.weight": embedding,
        "transformer.wpe.weight": positions,
        "transformer.ln_f.weight": network.norm.weight,
        "transformer.ln_f.bias": network.norm.bias,
    }
    if not tied:
        state["lm_head.weight"] = network.head.weight
    for number, block in enumerate(network.blocks):
        for names in GPT2_NORMS, GPT2_MATRICES:
            for ours, theirs in names.items():
                for kind in "weight", "bias":
                    value = block.get_parameter(f"{ours}.{kind}")
                    state[f"transformer.h.{number}.{theirs}.{kind}"] = value.T if value.ndim == 2 else value
    return config, state


def unscaled(embedding: Tensor) -> Tensor:
    """Return `MiniGPT`'s embedding for one in GPT-2's form: divided by sqrt(dim), up to rounding."""
    return embedding / math.sqrt(embedding.size(1))


def node_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model`` node that describes the network of a ``config.json``, without dropout.

    Raises:
        SettingError: another form than GPT-2's and Qwen3's, or a variant that the networks do not have.
    """
    kind = config.get("model_type")
    if kind not in ("gpt2", "qwen3"):
        raise SettingError("model_type", kind, f"is another form; {' and '.join(FORMS)} can be opened")
    only = GPT2_ONLY if kind == "gpt2" else QWEN3_ONLY
    for name, value in only.items():
        if config.get(name, value) != value:
            raise SettingError(name, config[name], f"is a variant that is not computed here; {name}={value} is")
    if kind == "gpt2":
        gelu = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}.get(
            str(config.get("activation_function", "gelu_new"))
        )
        if gelu is None:
            advice = "is no activation that is computed here; gelu and gelu_new are"
            raise SettingError("activation_function", config["activation_function"], advice)
        dim = _number(config, "n_embd", 768)
        if config.get("n_inner") not in (None, 4 * dim):
            raise SettingError("n_inner", config["n_inner"], f"is not computed here; {4 * dim} is")
        return {
            "_target_": "minillm.models.GPT2",
            "max_length": _number(config, "n_positions", 1024),
            "embedding_dim": dim,
            "num_layers": _number(config, "n_layer", 12),
            "num_heads": _number(config, "n_head", 12),
            "dropout": 0.0,
            "tie_head": bool(config.get("tie_word_embeddings", True)),
            "gelu": gelu,
        }
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise SettingError("rope_parameters", rope, "is a variant that is not computed here; rope_type=default is")
    layer_types = config.get("layer_types") or []
    if not isinstance(layer_types, list) or set(map(str, layer_types)) - {"full_attention"}:
        raise SettingError("layer_types", layer_types, "is not computed here; full_attention is")
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    if isinstance(theta, bool) or not isinstance(theta, int | float):
        raise SettingError("rope_theta", theta, "must be a number")
    return {
        "_target_": "minillm.models.MiniGPTModern",
        "max_length": _number(config, "max_position_embeddings", 32768),
        "embedding_dim": _number(config, "hidden_size", 4096),
        "num_layers": _number(config, "num_hidden_layers", 32),
        "num_heads": _number(config, "num_attention_heads", 32),
        "num_kv_heads": _number(config, "num_key_value_heads", 32),
        "head_dim": _number(config, "head_dim", 128),
        "feedforward_dim": _number(config, "intermediate_size", 22016),
        "tie_head": bool(config.get("tie_word_embeddings", False)),
        "rope_theta": float(theta),
        "dropout": 0.0,
    }


def _number(config: Mapping[str, Any], name: str, default: int) -> int:
    value = config.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(name, value, "must be a whole number")
    return value


def from_form(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of a form under the names of the network that `node_of` describes.

    Leaves out buffers in old files, and a head that equals the embedding. Missing and surplus tensors stay, for the
    caller's comparison of names and shapes.
    """
    return {_ours(name, config): _turned(name, value, config) for name, value in state.items() if not _is_buffer(name)}


def _is_buffer(name: str) -> bool:
    return name.endswith((".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"))


def _turned(name: str, value: Tensor, config: Mapping[str, Any]) -> Tensor:
    of_conv1d = config.get("model_type") == "gpt2" and name.removesuffix(".weight").endswith(
        tuple(GPT2_MATRICES.values())
    )
    return value.T.contiguous() if of_conv1d and value.ndim == 2 else value


def _ours(name: str, config: Mapping[str, Any]) -> str:
    """Return a tensor's name in the project's networks, or its own name if there is none."""
    if config.get("model_type") == "gpt2":
        name = name.removeprefix("transformer.")
        outside = {"wte": "embedding", "wpe": "position_embedding", "ln_f": "norm", "lm_head": "head"}
        blocks, inside = "h", {**GPT2_NORMS, **GPT2_MATRICES}
    else:
        name = name.removeprefix("model.")
        outside = {"embed_tokens": "embedding", "norm": "norm", "lm_head": "head"}
        blocks, inside = "layers", QWEN3
    layer, _, kind = name.rpartition(".")
    if layer in outside:
        return f"{outside[layer]}.{kind}"
    prefix, _, rest = layer.partition(".")
    number, _, layer = rest.partition(".")
    for ours, theirs in inside.items():
        if prefix == blocks and layer == theirs:
            return f"blocks.{number}.{ours}.{kind}"
    return name


def as_minigpt(state: Mapping[str, Tensor], embedding: Tensor | None = None) -> dict[str, Tensor] | None:
    """Return `MiniGPT`'s weights from those of `GPT2`; None: these are no longer a MiniGPT's.

    Args:
        state: as `from_form` returns them.
        embedding: MiniGPT's own, which the folder keeps if the division rounds; None: there is none.
    """
    table, scaled = state.get("position_embedding.weight"), state.get("embedding.weight")
    if table is None or scaled is None or table.ndim != 2 or scaled.ndim != 2 or scaled.size(1) % 2:
        return None
    embedding = unscaled(scaled) if embedding is None else embedding
    same = embedding.shape == scaled.shape and torch.equal(embedding * math.sqrt(scaled.size(1)), scaled)
    if not same or not torch.equal(table, sinusoidal_positions(*table.shape)):
        return None
    return {
        **{name: value for name, value in state.items() if name != "position_embedding.weight"},
        "embedding.weight": embedding,
    }
