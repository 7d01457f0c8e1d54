"""What the benchmark computes from what it measured."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minillm.arithmetic import counted_flops_per_token, flops_per_token, matrix_parameters
from minillm.benchmarking.loops import Endless, full_batches
from minillm.benchmarking.report import overhead, ratio, spread
from minillm.models import MiniGPT
from minillm.tokenization import PAD


def test_a_spread_is_the_median_between_the_quartiles() -> None:
    values = [3.0, 9.0, 1.0, 7.0, 5.0]
    assert spread(values) == {"median": 5.0, "low": 3.0, "high": 7.0, "values": values}


def test_a_ratio_is_taken_round_by_round_so_that_a_slow_round_drops_out() -> None:
    ours, theirs = spread([100.0, 10.0, 200.0]), spread([50.0, 5.0, 100.0])
    assert ratio(ours, theirs)["values"] == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratio(ours, spread([1.0]))


def test_the_overhead_is_the_share_of_the_whole_that_the_inner_part_does_not_take() -> None:
    assert overhead(spread([100.0, 200.0, 50.0]), spread([95.0, 180.0, 55.0]))["values"] == pytest.approx(
        [0.05, 0.1, -0.1]
    )


def test_the_formula_counts_what_pytorch_counts() -> None:
    length, rows = 48, 3
    network = MiniGPT(vocab_size=500, max_length=length, embedding_dim=64, num_layers=3, num_heads=4, dropout=0.0)
    ids = torch.randint(4, 500, (rows, length))
    # Of the fused attention kernels not all are counted; as plain products all of it is.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(ids).sum().backward()
    formula = flops_per_token(network, num_layers=3, embedding_dim=64, max_length=length) * rows * length
    assert formula == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert counted_flops_per_token(network, length) == pytest.approx(formula / (rows * length), rel=1e-3)
    assert network.training


def test_a_tied_head_is_multiplied_with_and_an_embedding_alone_is_not() -> None:
    network = MiniGPT(vocab_size=500, embedding_dim=64, num_layers=1)
    untied = matrix_parameters(network)
    assert untied == 12 * 64 * 64 + 500 * 64
    network.head.weight = network.embedding.weight
    assert matrix_parameters(network) == untied


def test_every_place_of_the_batches_is_a_target_and_follows_its_input() -> None:
    documents = [np.array([2, *range(10, 30), 3]), np.array([2, *range(40, 47), 3])]
    batches = full_batches(documents, number=2, batch_size=4, max_length=6)
    assert [batch["inputs"].shape for batch in batches] == [(4, 6), (4, 6)]
    inputs, targets = (torch.cat([batch[name] for batch in batches]).flatten() for name in ("inputs", "targets"))
    assert torch.equal(inputs[1:], targets[:-1])
    assert not (targets == PAD).any()
    assert inputs[:22].tolist() == [2, *range(10, 30), 3]

    endless = Endless(batches)
    source = iter(endless)
    seen = [next(source) for _ in range(5)]
    assert seen[4] is seen[0]
    assert endless.tokens == 5 * 24
    endless.restart()
    assert (endless.tokens, endless.waited) == (0, 0.0)
