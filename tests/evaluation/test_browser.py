"""Pages as Chromium shows them, and TensorBoard on a run that scripts/train.py made."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from minillm.evaluation.comparison import compare
from minillm.evaluation.report import write_report
from minillm.evaluation.results import read_evaluation
from minillm.evaluation.schema import Evaluation, Verdict
from tests.browsing import DESKTOP, IN_CHROMIUM, PHONE, chromium, errors, eventually, view

pytestmark = IN_CHROMIUM
# TensorBoard's pages are custom elements, whose content a plain look at the document does not see.
ELEMENTS = """
    const found = []
    const walk = node => {
        for (const child of [...(node.shadowRoot?.childNodes ?? []), ...node.childNodes]) {
            found.push(child)
            walk(child)
        }
    }
    walk(document.body)
"""

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def check_page(browser: Chrome, page: Path, screenshots: Path, drawings: int) -> None:
    """Look at a page on every kind of screen; the whole of it is kept as pictures to look at."""
    for width, scheme in (DESKTOP, "light"), (PHONE, "light"), (PHONE, "dark"):
        view(browser, page.as_uri(), width, scheme)
        boxes = browser.execute_script(
            "return [...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) == drawings
        assert all(box["width"] > 300 and box["height"] > 100 and box["right"] <= width for box in boxes)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (scheme == "light")
        assert errors(browser) == []
        height = browser.execute_script("return document.documentElement.scrollHeight")
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.save_screenshot(str(screenshots / f"{page.stem}_{width}_{scheme}.png"))


@pytest.mark.parametrize("verdict", ["fine", "weak", "fault"])
def test_the_report_is_whole_on_desktop_and_phone(
    browser: Chrome, evaluation: Evaluation, make_run: MakeRun, tmp_path: Path, verdict: Verdict
) -> None:
    evaluation["trustworthy"] = verdict != "fault"
    evaluation["audit"]["plausibility"]["verdict"] = verdict
    for figures in evaluation["splits"].values():
        figures["ci95"] = {name: [0.98 * value, 1.02 * value] for name, value in figures.items() if name != "tokens"}  # type: ignore[operator]
    check_page(browser, write_report(evaluation, make_run("run")), tmp_path, drawings=7)
    red = browser.execute_script("return getComputedStyle(document.querySelector('.verdict')).backgroundColor")
    assert (red == "rgb(179, 38, 30)") == (verdict == "fault")


def test_the_comparison_is_whole_on_desktop_and_phone(
    browser: Chrome, evaluation: Evaluation, make_run: MakeRun, tmp_path: Path
) -> None:
    make_run("sweep/0", evaluation, model__dropout=0.1)
    make_run("sweep/1", {**evaluation, "trustworthy": False}, model__dropout=0.2)
    make_run("sweep/2", model__dropout=0.3)
    compare([str(tmp_path / "sweep")], ["test/loss", "memory/parameters"], "test/bits_per_byte").write(tmp_path)
    check_page(browser, tmp_path / "comparison.html", tmp_path, drawings=2)
    view(browser, (tmp_path / "comparison.html").as_uri(), PHONE)
    cells = "return [...document.querySelectorAll('.runs td')].map(cell => cell.getBoundingClientRect().toJSON())"
    # Each figure is in view: nothing to scroll to the side for.
    assert all(cell["left"] >= 0 and cell["right"] <= PHONE for cell in browser.execute_script(cells))


@pytest.fixture(scope="module")
def tensorboard(run_folder: Path) -> Iterator[str]:
    """Start TensorBoard on the run and return its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", run_folder, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    addresses = (re.search(r" at (http://\S+)", line) for line in server.stderr)
    yield next(address[1] for address in addresses if address)
    server.terminate()
    server.wait()


def test_tensorboard_shows_the_run_and_its_evaluation(
    browser: Chrome, run_folder: Path, tensorboard: str, tmp_path: Path
) -> None:
    evaluation = read_evaluation(run_folder)
    assert evaluation is not None
    verdict = "These figures can be believed" if evaluation["trustworthy"] else "NOT TO BE TRUSTED"
    expected = {
        "timeseries": ["curves", "/loss", "/bits_per_byte", "/tokens_per_second", "tensorboard/val"],
        "scalars&tagFilter=loss$": ["train/loss", "val/loss", "final/test/loss"],
        "images": ["evaluation/loss", "evaluation/data funnel"],
        "text": [verdict, evaluation["findings"][0], evaluation["text"]["samples"][0]["prompt"]],
        "hparams": ["model.embedding_dim", "final/test/loss", "final/text/bleu4"],
    }
    for tab, texts in expected.items():
        view(browser, "about:blank", DESKTOP)
        browser.get(f"{tensorboard}#{tab}")
        for text in texts:
            assert eventually(partial(shows, browser, text)), f"{tab}: {text}"
        assert eventually(lambda: all(images(browser))), f"{tab}: an image is missing"
        assert tab == "timeseries" or len(images(browser)) == (7 if tab == "images" else 0)  # of those, what is in view
        assert errors(browser) == []
        browser.save_screenshot(str(tmp_path / f"tensorboard_{tab.partition('&')[0]}.png"))


def shows(browser: Chrome, text: str) -> bool:
    pieces: list[str] = browser.execute_script(
        ELEMENTS + "return found.filter(node => node.nodeType == Node.TEXT_NODE).map(node => node.data)"
    )
    return text in " ".join("".join(pieces).split())


def images(browser: Chrome) -> list[int]:
    """Return the width of each image, 0 for one that is not there."""
    widths: list[int] = browser.execute_script(
        ELEMENTS + "return found.filter(node => node.nodeName == 'IMG').map(node => node.naturalWidth)"
    )
    return widths
