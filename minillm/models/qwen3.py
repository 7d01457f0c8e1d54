"""MiniGPTModern's weights as transformers' Qwen3ForCausalLM has them."""

from typing import Any

from torch import Tensor

from minillm.models.minigpt_modern import MiniGPTModern

NAMES = {
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
        "max_position_embeddings": network.max_length,
        "rms_norm_eps": network.norm.eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": network.rope_theta},
        "tie_word_embeddings": network.head.weight is network.embedding.weight,
    }


def qwen3_state_dict(network: MiniGPTModern) -> dict[str, Tensor]:
    """Return a network's weights under Qwen3's names; the numbers are the same."""
    state = {
        "model.embed_tokens.weight": network.embedding.weight,
        "model.norm.weight": network.norm.weight,
        "lm_head.weight": network.head.weight,
    }
    for number, block in enumerate(network.blocks):
        for ours, theirs in NAMES.items():
            state[f"model.layers.{number}.{theirs}.weight"] = block.get_parameter(f"{ours}.weight")
    return {name: weight.detach() for name, weight in state.items()}
