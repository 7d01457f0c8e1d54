"""Nearest neighbours of a token in a model's embedding."""

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from minillm.errors import SettingError
from minillm.inspection.reading import check_count
from minillm.language_model import LanguageModel
from minillm.tokenization import SPECIAL_TOKENS, UNK


@torch.inference_mode()
def neighbours(model: LanguageModel, token: str, k: int) -> pd.DataFrame:
    """Implement `LanguageModel.neighbours`."""
    check_count(k, least=1)
    embedding = getattr(model.network, "embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise SettingError("model", type(model.network).__name__, "has no token embedding")
    own = token_id(model, token)
    directions = F.normalize(embedding.weight.float(), dim=-1)
    cosines = directions @ directions[own]
    cosines[own] = -torch.inf
    best = cosines.topk(min(k, len(cosines) - 1))
    return pd.DataFrame(
        {
            "token": [model.tokenizer.text(neighbour) for neighbour in best.indices.tolist()],
            "id": best.indices.cpu().numpy(),
            "cosine": best.values.double().cpu().numpy(),
        }
    )


def token_id(model: LanguageModel, token: str) -> int:
    """Return the id of a text that is one token, as it is or after a space, or of a special token's name.

    Raises:
        SettingError: the text is not one token.
    """
    if token in SPECIAL_TOKENS:
        return SPECIAL_TOKENS.index(token)
    ids = model.tokenizer.encode(token)
    for read in ids, model.tokenizer.encode(f" {token}") if ids else []:
        if len(read) == 1 and read[0] != UNK:
            return read[0]
    parts = ", ".join(repr(model.tokenizer.text(part)) for part in ids[:10]) + (", ..." if len(ids) > 10 else "")
    advice = f"is read as {len(ids)} tokens, {parts}" if len(ids) > 1 else "is not in the model's vocabulary"
    raise SettingError("token", repr(token), f"{advice}; give one token that it knows, such as 'de'")
