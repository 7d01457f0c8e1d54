"""The page of scripts/demo.py as people use it, in Chromium; and what it makes of those who mean no good."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from minillm.language_model import LanguageModel
from tests.browsing import DESKTOP, IN_CHROMIUM, PHONE, chromium, errors, eventually, screen, view
from tests.serving import demo

pytestmark = IN_CHROMIUM
BUSY = "document.querySelector('#written [aria-busy]')"
ENDS = "ends the article"
TEXT = "Madrid es la capital de España."
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>${document.title=3}{{title}}'


@pytest.fixture(scope="module")
def address(run_folder: Path) -> Iterator[str]:
    checkpoints = run_folder / "checkpoints"
    arguments = (f"ckpt={checkpoints / 'best.ckpt'}", f"other={checkpoints / 'last.ckpt'}", "limits.tokens=3000")
    with demo(*arguments) as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def seen(browser: Chrome, what: str) -> Any:
    return browser.execute_script(f"return {what}")


def wait(browser: Chrome, what: str) -> None:
    assert eventually(lambda: bool(seen(browser, what))), what


def opened(browser: Chrome, url: str, width: int = DESKTOP) -> None:
    view(browser, url, width)
    wait(browser, "document.querySelector('#write')")


def typed(browser: Chrome, box: str, text: str) -> None:
    area = browser.find_element(By.CSS_SELECTOR, f"{box} textarea")
    area.send_keys(Keys.CONTROL, "a")
    area.send_keys(text)


def pasted(browser: Chrome, box: str, text: str) -> None:
    """Put a text into a box at once; it may hold what no key gives."""

    def holds() -> bool:
        # The box's example can come after the box, and then takes the text's place.
        browser.execute_script(
            "const area = document.querySelector(arguments[0] + ' textarea'); area.value = arguments[1];"
            "area.dispatchEvent(new InputEvent('input', {bubbles: true, inputType: 'insertFromPaste'}))",
            box,
            text,
        )
        time.sleep(0.5)
        return seen(browser, f"document.querySelector('{box} textarea').value") == text

    wait(browser, f"document.querySelector('{box} textarea')")
    assert eventually(holds)


def press(browser: Chrome, what: str, number: int = 0) -> None:
    """Press Enter on a button, as one does without a mouse."""
    browser.find_elements(By.CSS_SELECTOR, what)[number].send_keys(Keys.ENTER)


def tab(browser: Chrome, number: int) -> None:
    browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")[number].click()


def texts(browser: Chrome, what: str) -> list[str]:
    found: list[str] = seen(browser, f"[...document.querySelectorAll('{what}')].map(each => each.textContent)")
    return found


def status_of(browser: Chrome) -> str:
    return str(seen(browser, "document.querySelector('#status').innerText"))


def write(browser: Chrome, prompt: str) -> list[str]:
    """Have a text written, and return its tokens."""
    typed(browser, "#prompt", prompt)
    press(browser, "#write")
    wait(browser, f"document.querySelector('#written .passage')?.textContent.startsWith('{prompt}') && !{BUSY}")
    return texts(browser, "#written button.token")


def test_a_text_is_written_and_goes_on_from_another_word(browser: Chrome, address: str) -> None:
    for _ in range(10):
        opened(browser, f"{address}/en/")
        words = write(browser, "El agua")
        if len(words) > 4:  # a text may by chance end sooner
            break
    assert len(words) > 4
    assert re.search(r"\d+ tokens in [\d.]+ s: \d+ per second, the first after \d+ ms", status_of(browser))
    assert seen(browser, "document.querySelector('#written button.token').getAttribute('aria-label')").endswith("%")
    press(browser, "#written button.token", 2)
    wait(browser, "document.querySelectorAll('#alternatives button.alternative').length == 10")
    chosen = seen(browser, "document.querySelector('#alternatives .chosen b')?.textContent")
    assert chosen in (None, words[2])
    others = texts(browser, "#alternatives button.alternative:not(.chosen) b")
    press(browser, "#alternatives button.alternative:not(.chosen)", 0)
    wait(browser, f"document.querySelectorAll('#written button.token')[2]?.textContent == '{others[0]}' && !{BUSY}")
    changed = texts(browser, "#written button.token")
    assert changed[:2] == words[:2]
    assert len(changed) > 3 or ENDS in status_of(browser)
    assert errors(browser) == []


def test_a_text_is_stopped_and_goes_on(browser: Chrome, address: str) -> None:
    opened(browser, f"{address}/en/")
    browser.find_element(By.CSS_SELECTOR, "button.label-wrap").click()
    wait(browser, "document.querySelector('#tokens input[type=number]')?.offsetParent")
    number = browser.find_element(By.CSS_SELECTOR, "#tokens input[type=number]")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("3000", Keys.TAB)
    typed(browser, "#prompt", "El agua")
    press(browser, "#write")
    wait(browser, "document.querySelectorAll('#written button.token').length > 10")
    press(browser, "#stop")
    wait(browser, f"!{BUSY}")
    written = texts(browser, "#written button.token")
    if written[-1] != "[EOS]":
        assert "Stopped" in status_of(browser)
        assert len(written) < 3000
        press(browser, "#go_on")
        wait(browser, f"document.querySelectorAll('#written button.token').length > {len(written)}")
        press(browser, "#stop")
        wait(browser, f"!{BUSY}")
        assert texts(browser, "#written button.token")[: len(written)] == written


def test_a_text_is_coloured_by_its_surprisal(browser: Chrome, address: str, trained: LanguageModel) -> None:
    opened(browser, f"{address}/es/")
    tab(browser, 1)
    typed(browser, "#text", TEXT)
    press(browser, "#read")
    wait(browser, "document.querySelectorAll('#readings .reading').length == 2")
    table = trained.surprisal(TEXT)
    assert len(texts(browser, "#readings .reading:first-child button.token")) == len(table)
    bits = f"{table['bits'].sum() / len(TEXT.encode()):.3f}".replace(".", ",")
    figures = texts(browser, "#readings .reading:first-child td")
    assert figures[0] == bits
    assert len(figures) == 3  # and those of the unigram and bigram models
    shares = seen(browser, "[...document.querySelectorAll('.reading:first-child .token')].map(t => t.style.cssText)")
    assert [re.sub(r"\D", "", share) for share in shares] == [
        f"{100 * min(each, 16) / 16:.0f}" for each in table["bits"]
    ]
    browser.execute_script("document.querySelector('#readings button.token').focus()")
    rank, surprise = table["rank"][0], f"{table['bits'][0]:.1f}".replace(".", ",")
    detail = seen(browser, "document.querySelector('#readings .detail').textContent")
    assert f"{surprise} bits, puesto {rank}, probabilidad" in detail
    assert detail == seen(browser, "document.activeElement.getAttribute('aria-label')")


def test_a_head_looks_back_alone(browser: Chrome, address: str, trained: LanguageModel) -> None:
    opened(browser, f"{address}/es/")
    tab(browser, 2)
    typed(browser, "#sentence", TEXT)
    press(browser, "#attend")
    wait(browser, "document.querySelector('#heat table')")
    weights = trained.attention(TEXT)[0, 0]
    cells = texts(browser, "#heat td")
    assert len(cells) == weights.size
    assert cells[len(weights)] == f"{100 * weights[1, 0]:.1f} %".replace(".", ",")
    assert set(texts(browser, "#heat td.ahead")) == {"0,0 %"}
    assert "Ninguna palabra mira a las que vienen" in seen(browser, "document.querySelector('#heat').innerText")


def test_the_audit_is_told_and_the_report_one_click_away(browser: Chrome, address: str) -> None:
    opened(browser, f"{address}/en/")
    tab(browser, 3)
    wait(browser, "document.querySelector('.verdict')?.offsetParent")
    assert len(texts(browser, ".check")) >= 9
    faults = texts(browser, ".check.fault")
    assert all("✗" in fault for fault in faults)
    assert ("not to be trusted" in texts(browser, ".verdict")[0]) == bool(faults)
    link = browser.find_element(By.CSS_SELECTOR, ".looking a[target]").get_attribute("href")
    assert link is not None
    browser.get(link)
    assert "Evaluation of" in browser.title or "evaluation of" in browser.title
    assert errors(browser) == []


def test_a_phone_in_the_dark_shows_all_of_it(browser: Chrome, address: str, tmp_path: Path) -> None:
    opened(browser, f"{address}/es/", PHONE)
    screen(browser, PHONE, "dark", 1600)
    write(browser, "El agua")
    for number, button in enumerate(("#go_on", "#read", "#attend", ".verdict")):
        tab(browser, number)
        wait(browser, f"document.querySelector('{button}')?.offsetParent")
        if button in ("#read", "#attend"):
            press(browser, button)
            wait(browser, f"document.querySelector('{'.reading' if button == '#read' else '.heat'}')")
        assert seen(browser, "document.documentElement.scrollWidth") == PHONE
        browser.save_screenshot(str(tmp_path / f"{number}.png"))
    assert seen(browser, "document.documentElement.lang") == "es"
    back, ink = (
        sum(map(int, re.findall(r"\d+", seen(browser, f"getComputedStyle({element}).{colour}"))[:3]))
        for element, colour in (("document.body", "backgroundColor"), ("document.querySelector('.check')", "color"))
    )
    assert back < 150 < 450 < ink


def test_nothing_that_is_typed_runs(browser: Chrome, address: str) -> None:
    opened(browser, f"{address}/en/")
    title = browser.title
    typed(browser, "#prompt", HOSTILE)
    press(browser, "#write")
    wait(browser, f"document.querySelector('#written .passage') && !{BUSY}")
    assert texts(browser, "#written .passage")[0].startswith(HOSTILE)
    for number, box, button, shown in (1, "#text", "#read", ".reading"), (2, "#sentence", "#attend", ".heat, .alert"):
        tab(browser, number)
        pasted(browser, box, HOSTILE + "\u202e\x00\x1b[31m")
        press(browser, button)
        wait(browser, f"document.querySelector('{shown}')")
    assert "U+202E" in texts(browser, ".reading .passage")[0]
    assert browser.title == title
    assert not seen(browser, "document.querySelector('.looking img, .looking script')")
    assert errors(browser) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "There is no text here"), (" \n ", "There is no text here"), ("agua " * 200_000, "1,000,000 characters")],
)
def test_a_text_that_cannot_be_has_a_sentence(browser: Chrome, address: str, text: str, says: str) -> None:
    opened(browser, f"{address}/en/")
    for number, box, button, shown in (
        (0, "#prompt", "#write", "#status"),
        (1, "#text", "#read", "#readings"),
        (2, "#sentence", "#attend", "#heat"),
    ):
        tab(browser, number)
        pasted(browser, box, text)
        press(browser, button)
        wait(browser, f"document.querySelector('{shown} [role=alert]')?.textContent.includes('{says}')")


def test_two_visitors_at_once_have_their_own_texts(
    browser: Chrome, address: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with chromium(tmp_path_factory.mktemp("profile")) as second, ThreadPoolExecutor() as pool:
        both = {"El agua": browser, "La ciudad": second}
        for each in both.values():
            opened(each, f"{address}/en/")
        written = dict(zip(both, pool.map(write, both.values(), both), strict=True))
        for prompt, each in both.items():
            press(each, "#written button.token", 1)
            wait(each, "document.querySelector('#alternatives button.alternative')")
            heading = seen(each, "document.querySelector('#alternatives h2').textContent")
            assert f"“{written[prompt][1]}”" in heading
            assert texts(each, "#written .passage")[0].startswith(prompt)


def test_no_request_leaves_the_machine(browser: Chrome, address: str) -> None:
    browser.get_log("performance")
    opened(browser, f"{address}/en/")
    for number in range(4):
        tab(browser, number)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) > 10
    assert [url for url in urls if not url.startswith((f"{address}/", "data:", "blob:"))] == []
