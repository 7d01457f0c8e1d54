import math
from typing import Any

import pytest
import torch

from minillm.errors import SettingError
from minillm.training import warmup_schedule
from minillm.training.schedules import After

LR = 0.002


def rates(steps: int, total_steps: int | None, warmup: float, after: After, **settings: Any) -> list[float]:
    """Return the learning rate of each optimizer step, as training sees it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = warmup_schedule(optimizer, total_steps, warmup, after, **settings)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def rates_by_share(shares: list[float], total_steps: int | None, **settings: Any) -> list[float]:
    """Return the learning rate of each step where so much of the training is done before it, by its time or tokens."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    done = iter(shares)
    scheduler = warmup_schedule(optimizer, total_steps, done=lambda: next(done), **settings)
    seen = [optimizer.param_groups[0]["lr"]]
    for _ in shares[1:]:
        optimizer.step()
        scheduler.step()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_linear_is_a_triangle() -> None:
    expected = [LR * (step + 1) / 20 if step < 20 else LR * (200 - step) / 180 for step in range(200)]
    assert rates(200, 200, 0.1, "linear") == pytest.approx(expected)


def test_constant_stays_at_the_top_even_without_an_end() -> None:
    expected = [LR * min(1, (step + 1) / 30) for step in range(100)]
    assert rates(100, 300, 0.1, "constant") == pytest.approx(expected)
    assert rates(100, None, 30, "constant") == pytest.approx(expected)


def test_cosine_is_half_a_wave() -> None:
    wave = [LR * math.cos(math.pi / 2 * (step - 20) / 180) ** 2 for step in range(20, 200)]
    assert rates(200, 200, 20, "cosine")[20:] == pytest.approx(wave)
    assert rates(200, 200, 20, "cosine")[:20] == pytest.approx([LR * (step + 1) / 20 for step in range(20)])


def test_warmup_stable_decay_stays_at_the_top_and_falls_at_the_end() -> None:
    seen = rates(100, 100, 0.1, "sqrt", decay=0.2)
    assert seen[:10] == pytest.approx([LR * (step + 1) / 10 for step in range(10)])
    assert seen[10:80] == [LR] * 70
    assert seen[80:] == pytest.approx([LR * (1 - math.sqrt(step / 20)) for step in range(20)])
    assert rates(100, 100, 10, "linear", decay=40)[60:] == pytest.approx([LR * (1 - step / 40) for step in range(40)])


@pytest.mark.parametrize("after", ["linear", "cosine", "sqrt"])
def test_a_fall_ends_at_the_share_that_is_asked_for(after: Any) -> None:
    whole, part = rates(30, 20, 5, after), rates(30, 20, 5, after, final=0.1)
    assert part == pytest.approx([rate if step < 5 else 0.1 * LR + 0.9 * rate for step, rate in enumerate(whole)])
    assert part[20:] == pytest.approx([0.1 * LR] * 10)


@pytest.mark.parametrize("after", ["linear", "cosine", "sqrt"])
def test_the_rate_ends_at_zero_and_stays_there(after: Any) -> None:
    seen = rates(30, 20, 0.0, after)
    assert seen[0] == LR
    assert 0 < seen[19] < 0.06 * LR
    assert seen[20:] == [0] * 10


@pytest.mark.parametrize("after", ["linear", "cosine", "sqrt", "constant"])
def test_no_step_is_wasted_on_a_rate_of_zero(after: Any) -> None:
    for total, warmup in (1, 0.1), (2, 0.5), (5, 5), (10, 0.99), (7, 100):
        assert min(rates(total, total, warmup, after)) > 0


@pytest.mark.parametrize("after", ["linear", "cosine", "sqrt"])
def test_a_limit_that_is_no_number_of_steps_gives_the_same_schedule(after: Any) -> None:
    shares = [step / 200 for step in range(200)]
    by_share = rates_by_share(shares, None, warmup=0.1, after=after, decay=0.5)
    # Before the first step nobody knows how long a warmup is.
    assert 0 < by_share[0] < 1e-6 * LR
    assert by_share[1:] == pytest.approx(rates(200, 200, 0.1, after, decay=0.5)[1:])
    # Steps come first where there are fewer of them, and last where there are more.
    assert rates_by_share(shares, 100, warmup=0.1, after=after)[:100] == rates(100, 100, 0.1, after)
    assert rates_by_share(shares, 900, warmup=0.1, after=after)[1:] == pytest.approx(rates(200, 200, 0.1, after)[1:])


def test_the_fall_ends_with_the_time_whatever_the_pace() -> None:
    slower = [(step / 100) ** 2 for step in range(100)]  # ever slower: a share of time over steps
    seen = rates_by_share(slower, None, warmup=0.1, after="linear")
    assert seen[40:] == pytest.approx([LR * (1 - share) / 0.9 for share in slower[40:]])
    assert 0 < seen[-1] < 0.03 * LR


def test_a_slow_first_step_is_not_taken_for_a_short_training() -> None:
    shares = [0.0] + [0.3 + step / 2000 for step in range(1000)]  # such as that of torch.compile
    seen = rates_by_share(shares, None, warmup=0.02, after="linear", decay=0.5)
    assert seen[1:10] == pytest.approx([LR * (step + 1) / 10 for step in range(1, 10)])
    assert seen[10] == LR


@pytest.mark.parametrize(
    ("total_steps", "warmup", "after", "settings", "message"),
    [
        (100, -0.1, "linear", {}, "scheduler.warmup=-0.1: "),
        (100, float("nan"), "linear", {}, "scheduler.warmup=nan: must be a share of the training"),
        (100, float("inf"), "constant", {}, "scheduler.warmup=inf: must be a share of the training"),
        (None, 10, "linear", {}, "trainer.max_epochs=-1: a schedule needs an end"),
        (None, 10, "cosine", {}, "trainer.max_epochs=-1: "),
        (None, 0.1, "constant", {}, "scheduler.warmup=100"),
        (100, 0.1, "sqrt", {"decay": 0}, "scheduler.decay=0: must be a share of the training"),
        (100, 0.1, "sqrt", {"decay": float("inf")}, "scheduler.decay=inf: must be a share of the training"),
        (100, 0.1, "constant", {"decay": 0.2}, "scheduler.decay=0.2: scheduler=constant never falls"),
        (100, 0.1, "linear", {"final": 1.5}, "scheduler.final=1.5: must be a share of optimizer.lr"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(
    total_steps: int | None, warmup: float, after: Any, settings: dict[str, Any], message: str
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    with pytest.raises(SettingError, match=message):
        warmup_schedule(optimizer, total_steps, warmup, after, **settings)
