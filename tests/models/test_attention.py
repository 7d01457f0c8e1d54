import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minillm.models.attention import attention, flex_attention_within_documents
from minillm.models.dropout import Dropout
from minillm.models.masks import DocumentMask, causal_mask_within_documents

DOCUMENTS = [[0] * 9, [0, 0, 0, 1, 1, 1, 1, 2, -1], [5, 6, 6, 6, 6, 6, 7, 7, 7]]


def queries_keys_values(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 3, 2, 9, 8, dtype=torch.float64, generator=generator).to(dtype)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def documents_mask() -> Tensor:
    return causal_mask_within_documents(torch.tensor(DOCUMENTS))[:, None]


MASKS = {"causal": None, "documents": documents_mask(), "shared": torch.ones(1, 1, 9, 9, dtype=torch.bool)}


@pytest.mark.parametrize("mask", MASKS)
def test_training_without_dropout_is_pytorchs_attention_and_has_its_gradients(mask: str) -> None:
    inputs = queries_keys_values()
    ours = attention(*inputs, MASKS[mask], Dropout(0.0))
    theirs = F.scaled_dot_product_attention(*inputs, MASKS[mask], is_causal=mask == "causal")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, weights), torch.autograd.grad(theirs, inputs, weights), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_under_autocast_it_is_off_by_bfloat16s_error_alone(mask: str) -> None:
    inputs = queries_keys_values(torch.float32)
    exact = attention(*inputs, MASKS[mask], Dropout(0.0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(*inputs, MASKS[mask], Dropout(0.0))
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_flex_attention_keeps_documents_apart_as_the_mask_does(kv_heads: int) -> None:
    # What a GPU compiles for training; on the processor PyTorch has it without gradients alone.
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, heads, 9, 8, generator=generator) for heads in (4, kv_heads, kv_heads))
    documents = DocumentMask(torch.tensor(DOCUMENTS))
    ours = flex_attention_within_documents(query, key, value, documents)
    theirs = attention(query, key, value, documents_mask(), Dropout(0.0))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(attention(query, key, value, documents, Dropout(0.0)), theirs)


def test_dropout_takes_weights_away_and_keeps_the_mean() -> None:
    query, key, value = (x.detach() for x in queries_keys_values())
    torch.manual_seed(0)
    mean = sum(attention(query, key, value, None, Dropout(0.3)) for _ in range(4000)) / 4000
    assert isinstance(mean, Tensor)
    exact = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert not mean.equal(exact)
    torch.testing.assert_close(mean, exact, rtol=0, atol=0.12)  # four standard errors of the widest


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_the_newest_token_of_many_rows_looks_at_what_it_may(masked: bool, kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(40, 4, 1, 8, dtype=torch.float64, generator=generator)
    key, value = torch.randn(2, 40, kv_heads, 9, 8, dtype=torch.float64, generator=generator)
    mask = (torch.arange(9) >= torch.randint(9, (40, 1), generator=generator))[:, None, None] if masked else None
    found = attention(query, key, value, mask, Dropout(0.3).eval())
    exact = F.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
