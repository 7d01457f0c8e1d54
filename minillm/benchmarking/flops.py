"""How much arithmetic a training step needs: the standard count that MFU is defined by.

For each token and each pass forward a weight in a matrix costs 2 operations, and backward twice as many: 6 N in all.
Attention multiplies queries with keys and weights with values, 2 x 2 T d operations a layer forward, and backward
twice as many: 12 L d T. That is the count of Chowdhery et al. (2022), "PaLM", appendix B: no half for causal
attention, nothing for what is computed anew, nothing for norms, activations, softmax or dropout. So MFU is what the
model needs over what the machine can do, whatever the implementation does meanwhile.
"""

from torch import nn


def matrix_parameters(network: nn.Module) -> int:
    """Return N: the weights that tokens are multiplied with.

    Looked-up rows are not among them: an embedding counts only where a linear layer shares its weights (a tied head).
    """
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    multiplied = {
        id(parameter): parameter.numel()
        for module in network.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.dim() >= 2 and (id(parameter) not in tables or isinstance(module, nn.Linear))
    }
    return sum(multiplied.values())


def flops_per_token(network: nn.Module, num_layers: int, embedding_dim: int, max_length: int) -> float:
    """Return 6 N + 12 L d T: operations of forward and backward for one token.

    Args:
        network: the network.
        num_layers: L, its attention layers.
        embedding_dim: d, heads times channels a head.
        max_length: T, tokens a row.
    """
    return 6.0 * matrix_parameters(network) + 12.0 * num_layers * embedding_dim * max_length
