from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from minillm.errors import DivergedError, SettingError
from minillm.generation import Draw, Sampling, generate_tokens
from minillm.models import GPT2, KeyValueCache, MiniGPT, MiniGPTModern
from minillm.tokenization import BOS, EOS, PAD, UNK

GREEDY = Sampling(temperature=0)
RandomIds = Callable[..., Tensor]


@pytest.fixture
def network() -> MiniGPT:
    """A network of random weights large enough that its greedy text does not fall into one word."""
    torch.manual_seed(0)
    network = MiniGPT(50, max_length=16, embedding_dim=32, num_layers=2).eval()
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.normal_(network.head.weight[EOS : EOS + 1], std=0.01)  # so that a text goes on for a while
    return network


def naively(network: MiniGPT | GPT2 | MiniGPTModern, prompt: list[int], steps: int) -> list[int]:
    """Continue greedily without a cache: when the context has outgrown the window, its newest half stays."""
    context, written = list(prompt), []
    for _ in range(steps):
        if len(context) > network.max_length:
            context = context[-(network.max_length // 2) :]
        logits = network(torch.tensor([context]))[0, -1].double()
        logits[[PAD, UNK, BOS]] = -torch.inf
        token = int(logits.argmax())
        if token == EOS:
            break
        context.append(token)
        written.append(token)
    return written


def let_end(network: MiniGPT) -> None:
    """Give the network an [EOS] that comes after some steps."""
    torch.manual_seed(3)
    torch.nn.init.normal_(network.head.weight[EOS : EOS + 1], std=0.5)


def columns(draws: list[Draw], rows: int) -> list[list[int]]:
    """Return each row's tokens without [EOS]."""
    tokens = [[draw.tokens[row] for draw in draws] for row in range(rows)]
    return [[token for token in row if token not in (None, EOS)] for row in tokens]


def a_prompt(random_ids: RandomIds, length: int, seed: int) -> list[int]:
    return [BOS, *random_ids(length - 1, seed=seed).tolist()]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16])
def test_cached_decoding_gives_the_tokens_of_a_loop_without_a_cache_far_past_the_window(
    network: MiniGPT, random_ids: RandomIds, length: int
) -> None:
    prompt = a_prompt(random_ids, length, seed=length)
    expected = naively(network, prompt, 60)
    assert len(expected) > 40
    assert len(set(expected)) > 5
    assert columns(list(generate_tokens(network, [prompt], 60, GREEDY)), 1) == [expected]


def test_prompts_of_different_lengths_give_together_what_each_gives_alone(
    network: MiniGPT, random_ids: RandomIds
) -> None:
    lengths = [1, 16, 5, 9, 9, 12]
    prompts = [a_prompt(random_ids, length, seed=20 + n) for n, length in enumerate(lengths)]
    together = columns(list(generate_tokens(network, prompts, 40, GREEDY)), len(prompts))
    assert together == [naively(network, prompt, 40) for prompt in prompts]


@pytest.mark.parametrize("kind", [GPT2, MiniGPTModern])
def test_every_network_gives_for_prompts_together_what_a_loop_without_a_cache_gives_for_each(
    kind: type[GPT2 | MiniGPTModern], random_ids: RandomIds
) -> None:
    torch.manual_seed(0)
    network = kind(50, max_length=16, embedding_dim=32, num_layers=2).eval()
    for name, parameter in network.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    prompts = [a_prompt(random_ids, length, seed=30 + length) for length in (1, 16, 5, 9)]
    expected = [naively(network, prompt, 40) for prompt in prompts]
    assert sum(map(len, expected)) > 60
    assert columns(list(generate_tokens(network, prompts, 40, GREEDY)), 4) == expected


def test_a_row_that_has_ended_stays_ended_and_disturbs_no_other(network: MiniGPT, random_ids: RandomIds) -> None:
    let_end(network)
    prompts = [a_prompt(random_ids, 4, seed=seed) for seed in range(12)]
    expected = [naively(network, prompt, 40) for prompt in prompts]
    assert len({len(tokens) for tokens in expected}) > 4
    assert 40 in map(len, expected)
    draws = list(generate_tokens(network, prompts, 40, GREEDY))
    assert columns(draws, 12) == expected
    for before, after in pairwise(draw.tokens for draw in draws):
        assert all(later is None for earlier, later in zip(before, after, strict=True) if earlier in (None, EOS))


def test_a_row_draws_as_it_would_alone_with_its_own_seed(network: MiniGPT, random_ids: RandomIds) -> None:
    sampling = Sampling(temperature=1.6, top_p=0.98, repetition_penalty=1.1)
    prompts = [a_prompt(random_ids, length, seed=40 + length) for length in (1, 3, 4, 9, 16, 30)]
    together = columns(list(generate_tokens(network, prompts, 50, sampling, 2**64 - 3)), len(prompts))
    seeds = (2**64 - 3, 2**64 - 2, 2**64 - 1, 0, 1, 2)
    alone = [
        columns(list(generate_tokens(network, [prompt], 50, sampling, seed)), 1)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    assert len({len(tokens) for tokens in together}) > 2  # some have ended while others went on
    assert max(map(len, together)) == 50  # far past the window


def test_logits_are_made_of_the_newest_token_alone(network: MiniGPT, random_ids: RandomIds) -> None:
    shapes = []
    network.head.register_forward_hook(lambda _module, inputs, _output: shapes.append(inputs[0].shape))
    list(generate_tokens(network, [a_prompt(random_ids, 9, seed=1)] * 3, 30, GREEDY))
    assert len(shapes) == 30
    assert set(shapes) == {(3, 32)}


def test_it_ends_when_every_row_has(network: MiniGPT, random_ids: RandomIds) -> None:
    let_end(network)
    prompts = [a_prompt(random_ids, 4, seed=seed) for seed in range(12)]
    ending = [prompt for prompt in prompts if len(naively(network, prompt, 40)) < 40]
    draws = list(generate_tokens(network, ending, 40, GREEDY))
    longest = max(len(naively(network, prompt, 40)) for prompt in ending)
    assert len(draws) == longest + 1  # its [EOS]
    assert longest < 40


def test_a_prompt_longer_than_the_window_is_read_from_its_newest_half_on(
    network: MiniGPT, random_ids: RandomIds
) -> None:
    prompt = a_prompt(random_ids, 41, seed=3)
    expected = columns(list(generate_tokens(network, [prompt[-8:]], 20, GREEDY)), 1)
    assert columns(list(generate_tokens(network, [prompt], 20, GREEDY)), 1) == expected


class Fixed:
    """A network whose logits are the same after every token."""

    max_length = 8

    def __init__(self, logits: list[float]) -> None:
        self.logits = torch.tensor(logits)

    def new_cache(self, batch_size: int, capacity: int) -> KeyValueCache:
        return KeyValueCache(0, (batch_size, 1, capacity, 1), torch.device("cpu"), torch.float32)

    def hidden(self, ids: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        assert cache is not None
        cache.length += ids.size(1)
        return ids[:, :, None].float()

    def head(self, hidden: Tensor) -> Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1)


@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(), Sampling(top_k=2), Sampling(top_p=0.5), Sampling(temperature=5, repetition_penalty=3)],
)
def test_padding_unknown_and_beginning_are_never_generated_however_probable(sampling: Sampling) -> None:
    network = Fixed([99.0, 98.0, 97.0, -50.0, 1.0, 1.5])
    draws = list(generate_tokens(network, [[BOS], [BOS, 4]], 50, sampling, seed=0))
    assert {token for draw in draws for token in draw.tokens} <= {4, 5}
    assert len(draws) == 50


def probabilities(sampling: Sampling, *shares: float, occurred: tuple[int, ...] = ()) -> list[float]:
    """Return what is made of these probabilities of the words 4, 5, ...; the rest had none."""
    logits = torch.cat([torch.full((1, 4), -torch.inf), torch.tensor([shares]).log()], dim=1)
    happened = torch.zeros_like(logits, dtype=torch.bool)
    happened[:, list(occurred)] = True
    result = sampling.probabilities(logits, happened)
    assert not result[:, :4].any()
    return result[0, 4:].tolist()


def test_temperature_is_the_power_of_the_probabilities() -> None:
    assert probabilities(Sampling(), 0.5, 0.3, 0.2) == pytest.approx([0.5, 0.3, 0.2])
    squared = [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]
    assert probabilities(Sampling(temperature=0.5), 0.5, 0.3, 0.2) == pytest.approx(squared)
    assert probabilities(Sampling(temperature=2), 0.64, 0.36) == pytest.approx([0.8 / 1.4, 0.6 / 1.4])
    assert probabilities(GREEDY, 0.3, 0.5, 0.2) == [0, 1, 0]
    assert probabilities(Sampling(temperature=1e-40), 0.3, 0.5, 0.2) == [0, 1, 0]


def test_top_k_keeps_the_most_probable() -> None:
    assert probabilities(Sampling(top_k=2), 0.2, 0.5, 0.3) == pytest.approx([0, 5 / 8, 3 / 8])
    assert probabilities(Sampling(top_k=1), 0.2, 0.5, 0.3) == [0, 1, 0]
    assert probabilities(Sampling(top_k=99), 0.2, 0.5, 0.3) == pytest.approx([0.2, 0.5, 0.3])


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    shares = (0.15, 0.5, 0.05, 0.3)
    assert probabilities(Sampling(top_p=0.4), *shares) == [0, 1, 0, 0]
    assert probabilities(Sampling(top_p=0.6), *shares) == pytest.approx([0, 5 / 8, 0, 3 / 8])
    assert probabilities(Sampling(top_p=0.9), *shares) == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95])
    assert probabilities(Sampling(top_p=1.0), *shares) == pytest.approx(shares)
    assert probabilities(Sampling(top_p=1e-9), *shares) == [0, 1, 0, 0]


def test_top_p_looks_at_what_temperature_and_top_k_have_left() -> None:
    # Squared: 0.25, 0.09, 0.04; the first two of three: 25/34 and 9/34, and the first reaches 0.7.
    assert probabilities(Sampling(temperature=0.5, top_k=2, top_p=0.7), 0.5, 0.3, 0.2) == [1, 0, 0]
    assert probabilities(Sampling(temperature=0.5, top_k=2, top_p=0.74), 0.5, 0.3, 0.2) == pytest.approx(
        [25 / 34, 9 / 34, 0]
    )


def test_what_is_as_probable_as_the_last_one_let_through_comes_with_it() -> None:
    assert probabilities(Sampling(top_k=2), 0.4, 0.2, 0.2, 0.2) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    assert probabilities(Sampling(top_p=0.5), 0.4, 0.25, 0.25, 0.1) == pytest.approx([4 / 9, 2.5 / 9, 2.5 / 9, 0])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, top_k=20), Sampling(0.8, top_p=0.7), Sampling(2.0)])
def test_a_token_is_chosen_where_its_part_of_the_probability_holds_the_draw(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 50, generator=generator) * 3
    draws = torch.rand(400, generator=generator, dtype=torch.float64)
    draws[:20], draws[20:40] = 0, 1 - 2**-53
    chosen = sampling.choose(logits, None, draws)
    distribution = sampling.probabilities(logits).double()
    for row, token in enumerate(chosen.tolist()):
        below = distribution[row, :token].sum().item()
        assert distribution[row, token] > 0
        assert below - 1e-6 <= draws[row] <= below + distribution[row, token] + 1e-6


def test_the_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 3.0, 2.0, -1.0, -2.0]])
    occurred = torch.tensor([[False, False, False, False, True, False, True, False]])
    result = Sampling(repetition_penalty=2).probabilities(logits, occurred)
    expected = torch.tensor([0.0, 1.5, 2.0, -2.0, -2.0]).double().softmax(dim=0)  # [EOS] and the four words
    torch.testing.assert_close(result[0, 3:].double(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(Sampling().probabilities(logits, occurred), Sampling().probabilities(logits))


def test_what_the_prompt_and_the_text_have_used_is_penalized() -> None:
    # 5 stands in the prompt; greedily, 4 comes until it is used, then 6, then the best of what is left.
    network = Fixed([0.0, 0.0, 0.0, -9.0, 2.4, 2.5, 2.3, 1.4])
    draws = list(generate_tokens(network, [[BOS, 5]], 5, Sampling(temperature=0, repetition_penalty=2)))
    assert columns(draws, 1) == [[4, 6, 7, 5, 5]]


def test_the_given_logits_stay_as_they_are() -> None:
    logits = torch.arange(8.0)[None]
    Sampling(0.5, 2, 0.5, 3).probabilities(logits, torch.ones(1, 8, dtype=torch.bool))
    assert torch.equal(logits, torch.arange(8.0)[None])


def test_draws_follow_the_distribution() -> None:
    network = Fixed([-99.0, -99.0, -99.0, -99.0, *torch.tensor([0.5, 0.3, 0.2]).log().tolist()])
    draws = list(generate_tokens(network, [[BOS]] * 500, 8, Sampling(), seed=0))
    tokens = torch.tensor([draw.tokens for draw in draws]).flatten()
    shares = [(tokens == word).float().mean().item() for word in (4, 5, 6)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_a_seed_gives_the_same_tokens_again_whatever_else_was_drawn(network: MiniGPT, random_ids: RandomIds) -> None:
    prompts = [a_prompt(random_ids, 4, seed=1), a_prompt(random_ids, 9, seed=2)]

    def tokens(seed: int | None) -> list[list[int | None]]:
        return [draw.tokens for draw in generate_tokens(network, prompts, 30, Sampling(temperature=2), seed)]

    torch.manual_seed(1)
    first = tokens(5)
    torch.manual_seed(2)
    assert tokens(5) == first
    assert tokens(6) != first
    assert tokens(None) != tokens(None)


def test_decoding_leaves_the_global_random_state_alone(network: MiniGPT) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    list(generate_tokens(network, [[BOS]], 5, Sampling(), seed=None))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_the_generator_does_not_take_is_refused(network: MiniGPT, seed: int) -> None:
    with pytest.raises(SettingError, match=f"seed={seed}: has more than 64 bits"):
        list(generate_tokens(network, [[BOS]], 1, Sampling(), seed))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
    ],
)
def test_a_value_outside_its_range_is_named(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"^{name}={value}: must be "):
        Sampling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-20, 1e300])
@pytest.mark.parametrize("top_p", [None, 1e-320, 1.0])
@pytest.mark.parametrize("penalty", [1e-320, 1e-30, 1.0, 1e30, 1e300])
def test_no_setting_is_too_extreme_for_float32(temperature: float, top_p: float | None, penalty: float) -> None:
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(0)) * 10
    logits[:, 9] = 0
    occurred = torch.rand(8, 30, generator=torch.Generator().manual_seed(1)) < 0.5
    probabilities = Sampling(temperature, None, top_p, penalty).probabilities(logits, occurred)
    torch.testing.assert_close(probabilities.sum(dim=-1), torch.ones(8))
    if temperature < 1 and penalty == 1:
        torch.testing.assert_close(probabilities, GREEDY.probabilities(logits))


def test_draws_are_the_same_where_there_is_no_float64(device_without_float64: torch.device) -> None:
    logits = torch.randn(64, 30, generator=torch.Generator().manual_seed(0))
    draws = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    chosen = Sampling().choose(logits.to(device_without_float64), None, draws)
    assert chosen.device == device_without_float64
    assert torch.equal(chosen.cpu(), Sampling().choose(logits, None, draws))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_p=0.9)])
@pytest.mark.parametrize("weight", [1e38, float("nan"), float("-inf")])
def test_a_network_that_predicts_no_numbers_writes_nothing(network: MiniGPT, sampling: Sampling, weight: float) -> None:
    torch.nn.init.constant_(network.head.weight, weight)
    with pytest.raises(DivergedError, match="its training has diverged"):
        list(generate_tokens(network, [[BOS, 5, 6]], 5, sampling, 0))
