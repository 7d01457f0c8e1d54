"""The page: four tabs, and the action of each button."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from minillm.errors import MiniLLMError, SettingError
from minillm.generation import Sampling
from minillm.inspection.page.asking import Draft, Subject
from minillm.inspection.page.labels import LABELS, Labels
from minillm.inspection.page.render import Renderer

log = logging.getLogger(__name__)

CSS = Path(__file__).with_name("page.css")
ATTENDED = 64  # tokens of a heat map
SHARE = 0.15  # of the writing time, for updates of the text: a slow model's tokens appear one by one
AT_ONCE = 4  # visitors served at the same time; the others wait in a queue
QUEUED = 64  # visitors in the queue; later ones are told that the page is busy
OWN: dict[str, Any] = {"api_visibility": "private"}  # hidden from other programs
# Buttons in a component's HTML; the listener stays while the content changes.
# One Tab stop for a whole text; within it the arrow keys move between tokens.
ARROWS = """
element.addEventListener('keydown', event => {
  const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity}[event.key]
  const tokens = [...(event.target.closest('.passage')?.querySelectorAll('button.token') ?? [])]
  const at = tokens.indexOf(event.target)
  if (!step || at < 0) return
  event.preventDefault()
  tokens[Math.min(Math.max(at + step, 0), tokens.length - 1)].focus()
})
element.addEventListener('focusin', event => {
  if (!event.target.matches('.passage button.token')) return
  for (const other of event.target.closest('.passage').querySelectorAll('[tabindex="0"]')) other.tabIndex = -1
  event.target.tabIndex = 0
})
"""
# Scrolls to the alternatives: they are below the text, out of sight on a phone.
REACHED = """
watch('value', () => {
  const section = element.querySelector('section')
  section?.scrollIntoView({block: 'nearest'})
  section?.focus({preventScroll: true})
})
"""
# The chosen alternative's button is gone, so the focus returns to the text, not to the top of the page.
RETURNED = "() => {if (document.activeElement == document.body) document.querySelector('#written .passage')?.focus()}"
PRESSED = """
element.addEventListener('click', event => {
  const button = event.target.closest('button[data-place]')
  if (!button) return
  for (const other of element.querySelectorAll('[aria-pressed=true]')) other.setAttribute('aria-pressed', 'false')
  if (button.hasAttribute('aria-pressed')) button.setAttribute('aria-pressed', 'true')
  trigger('select', {place: Number(button.dataset.place), choice: Number(button.dataset.choice ?? -1)})
})
"""
DETAILS = """
for (const kind of ['mouseover', 'focusin', 'click']) element.addEventListener(kind, event => {
  const token = event.target.closest('button[data-detail]')
  if (!token) return
  token.title = token.getAttribute('aria-label')
  token.closest('.reading').querySelector('.detail').textContent = token.title
})
"""


@dataclass(frozen=True)
class Limits:
    """Limits of a visitor's requests.

    Args:
        characters: of a typed or pasted text.
        tokens: of a continuation.
    """

    characters: int = 4000
    tokens: int = 300

    def __post_init__(self) -> None:
        for name, most in ("characters", 100_000), ("tokens", 10_000):
            if not 1 <= getattr(self, name) <= most:
                raise SettingError(f"limits.{name}", getattr(self, name), f"must be at least 1 and at most {most:,}")


class Page:
    """The page in one language.

    Args:
        subjects: its models: one, or two to compare.
        labels: its words.
        limits: of a visitor's requests.
    """

    def __init__(self, subjects: list[Subject], labels: Labels, limits: Limits) -> None:
        self.subjects, self.labels, self.limits = subjects, labels, limits
        self.render = Renderer(labels, subjects[0].language)

    def build(self) -> gr.Blocks:
        """Return the page, for Gradio to serve."""
        labels = self.labels
        other = next(each for each in LABELS.values() if each is not labels)
        with gr.Blocks(title=labels.title, analytics_enabled=False) as blocks:
            _shown(self.render.head(self.subjects, other))
            write, read, attend, audit = labels.tabs
            with gr.Tabs():
                with gr.Tab(write, id="write"):
                    self._write_tab()
                with gr.Tab(read, id="read"):
                    self._read_tab()
                with gr.Tab(attend, id="attend"):
                    self._attend_tab()
                with gr.Tab(audit, id="audit"):
                    _shown(self.render.audit(self.subjects))
        return blocks.queue(max_size=QUEUED, default_concurrency_limit=AT_ONCE)

    def _write_tab(self) -> None:
        labels = self.labels
        which = self._which()
        prompt = gr.Textbox(labels.prompt_example, label=labels.prompt, lines=2, max_lines=6, elem_id="prompt")
        with gr.Accordion(labels.settings, open=False):
            with gr.Row():
                temperature = gr.Slider(0, 2, 0.8, step=0.05, label=labels.temperature, elem_id="temperature")
                top_k = gr.Slider(0, 200, 0, step=1, label=labels.top_k)
                top_p = gr.Slider(0.01, 1, 0.9, step=0.01, label=labels.top_p)
            with gr.Row():
                seed = gr.Number(None, label=labels.seed, precision=0, elem_id="seed")
                most = min(60, self.limits.tokens)
                tokens = gr.Slider(1, self.limits.tokens, most, step=1, label=labels.max_new_tokens, elem_id="tokens")
        with gr.Row():
            write = gr.Button(labels.write, variant="primary", elem_id="write", min_width=110)
            stop = gr.Button(labels.stop, elem_id="stop", min_width=110)
            go_on = gr.Button(labels.go_on, elem_id="go_on", min_width=110)
        draft = gr.State(Draft())
        status = _shown("", elem_id="status")
        text = _shown("", elem_id="written", js=PRESSED + ARROWS)
        alternatives = _shown("", elem_id="alternatives", js=PRESSED + REACHED)
        settings = [which, temperature, top_k, top_p, seed, tokens]
        outputs = [text, status, alternatives, draft]
        # The model's work is bounded for all visitors together, and each click's text replaces the one before.
        writes: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", "concurrency_id": "model"}
        begun = gr.on([write.click, prompt.submit], self._begin, [prompt, *settings], api_name="write", **writes)
        gone_on = go_on.click(self._go_on, [draft, *settings], **writes, **OWN)
        chosen = alternatives.select(self._choose, [draft, *settings], **writes, **OWN)
        chosen.then(None, js=RETURNED, **OWN)
        running = [begun, gone_on, chosen]
        stop.click(self._stopped, draft, [text, status], show_progress="hidden", cancels=running, queue=False, **OWN)
        text.select(self._look, draft, [alternatives, status], show_progress="hidden", **OWN)

    def _read_tab(self) -> None:
        labels = self.labels
        text = gr.Textbox(labels.text_example, label=labels.text, lines=4, max_lines=12, elem_id="text")
        button = gr.Button(labels.read, variant="primary", elem_id="read")
        shown = _shown("", elem_id="readings", js=DETAILS + ARROWS)
        button.click(self._read, text, shown, concurrency_id="model", api_name="read")

    def _attend_tab(self) -> None:
        labels = self.labels
        which = self._which()
        text = gr.Textbox(labels.text_example, label=labels.sentence, lines=2, max_lines=6, elem_id="sentence")
        layers, heads = (max(each) for each in zip(*(_sizes(subject) for subject in self.subjects), strict=True))
        with gr.Row():
            layer = gr.Radio(list(range(1, layers + 1)), value=1, label=labels.layer, elem_id="layer")
            head = gr.Radio(list(range(1, heads + 1)), value=1, label=labels.head, elem_id="head")
        button = gr.Button(labels.show, variant="primary", elem_id="attend")
        shown = _shown("", elem_id="heat")
        asked = [text, layer, head, which]
        button.click(self._attend, asked, shown, concurrency_id="model", api_name="attend")
        gr.on([layer.input, head.input, which.input], self._attend, asked, shown, concurrency_id="model", **OWN)

    def _which(self) -> gr.Radio:
        """Return the choice of a model, visible if there are several."""
        choices = [(subject.name, number) for number, subject in enumerate(self.subjects)]
        return gr.Radio(choices, value=0, label=self.labels.model, visible=len(choices) > 1)

    def _begin(self, prompt: str, which: int, *settings: Any) -> Iterator[tuple[Any, ...]]:
        def begun() -> Draft:
            text = self._checked(prompt).rstrip(" ")
            model = self._subject(which).model
            self._check_tokens(len(model.prompt_ids(text)), model.max_length)
            return Draft(text)

        yield from self._write(begun, which, *settings)

    def _go_on(self, draft: Draft, *settings: Any) -> Iterator[tuple[Any, ...]]:
        yield from self._write(lambda: draft, *settings)

    def _choose(
        self,
        draft: Draft,
        which: int,
        temperature: float,
        top_k: float,
        top_p: float,
        seed: float | None,
        tokens: float,
        event: gr.EventData,
    ) -> Iterator[tuple[Any, ...]]:
        def begun() -> Draft:
            return draft.instead(self._subject(which).model, int(event.place), int(event.choice))

        yield from self._write(begun, which, temperature, top_k, top_p, seed, tokens)

    def _write(
        self,
        begun: Callable[[], Draft],
        which: int,
        temperature: float,
        top_k: float,
        top_p: float,
        seed: float | None,
        tokens: float,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the tab's content while a text is written: text, progress, alternatives, draft.

        The browser session gets the draft with each update, so a stopped text is the visible one.
        """
        draft: Draft | None = None
        labels, render = self.labels, self.render
        try:
            draft = begun()
            if not draft.prompt:
                raise _RefusedError(labels.nothing_to_go_on)
            before = len(draft.steps)
            if not draft.has_ended:
                room = self.limits.tokens - before
                if room <= 0:
                    raise _RefusedError(labels.full.format(tokens=before))
                sampling = Sampling(temperature, int(top_k) or None, None if top_p == 1 else top_p)
                steps = self._subject(which).write(
                    draft, min(int(tokens), room), sampling, None if seed is None else int(seed)
                )
                yield render.written(draft, True), render.message(labels.writing), "", draft
                start = shown = time.perf_counter()
                first = cost = 0.0
                for draft in steps:
                    now = time.perf_counter()
                    first = first or now - start
                    if SHARE * (now - shown) >= cost:
                        yield render.written(draft, True), gr.skip(), gr.skip(), draft
                        shown = time.perf_counter()
                        cost = shown - now
                seconds = time.perf_counter() - start
            told = [labels.ended] if draft.has_ended else []
            if number := len(draft.steps) - before:
                told.append(render.speed(number, seconds, first))
            yield render.written(draft, False), render.message(" ".join(told)), "", draft
        except Exception as error:
            text, kept = (gr.skip(), gr.skip()) if draft is None else (render.written(draft, False), draft)
            yield text, self._excused(error), gr.skip(), kept

    def _stopped(self, draft: Draft) -> tuple[str, str]:
        text = self.render.written(draft, False) if draft.prompt else ""
        return text, self.render.message(self.labels.stopped)

    def _look(self, draft: Draft, event: gr.EventData) -> tuple[str, Any]:
        try:
            return self.render.alternatives(draft, int(event.place)), gr.skip()
        except Exception as error:
            return "", self._excused(error)

    def _read(self, text: str) -> str:
        try:
            text = self._checked(text)
            return self.render.readings([(subject, subject.read(text)) for subject in self.subjects])
        except Exception as error:
            return self._excused(error)

    def _attend(self, text: str, layer: int, head: int, which: int) -> str:
        try:
            model = self._subject(which).model
            tokens = model.tokens(self._checked(text))
            self._check_tokens(len(tokens), min(ATTENDED, model.max_length))
            weights = model.attention(text)
            layers, heads = weights.shape[:2]
            if not (0 < layer <= layers and 0 < head <= heads):
                raise _RefusedError(self.labels.no_layer.format(layers=layers, heads=heads))
            return self.render.heat(tokens, weights[layer - 1, head - 1].tolist(), layer, head)
        except Exception as error:
            return self._excused(error)

    def _subject(self, which: int) -> Subject:
        return self.subjects[which]

    def _checked(self, text: str) -> str:
        """Return a visitor's text after a check of its length."""
        if not text.strip():
            raise _RefusedError(self.labels.empty)
        if len(text) > self.limits.characters:
            count = self.render.count
            raise _RefusedError(
                self.labels.too_long.format(characters=count(len(text)), most=count(self.limits.characters))
            )
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which a script can send
            raise _RefusedError(self.labels.not_unicode) from None
        return text

    def _check_tokens(self, tokens: int, most: int) -> None:
        if tokens > most:
            raise _RefusedError(self.labels.too_many_tokens.format(tokens=tokens, most=most))

    def _excused(self, error: Exception) -> str:
        """Return a sentence for an error; errors that are not the visitor's are logged."""
        if isinstance(error, _RefusedError | MiniLLMError):
            return self.render.message(str(error), alert=True)
        log.error("the page could not answer", exc_info=error)
        return self.render.message(self.labels.failed, alert=True)


class _RefusedError(Exception):
    """A request that is refused; the message, in the visitor's language, says why."""


def _shown(value: str, elem_id: str | None = None, js: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, js_on_load=js)


def _sizes(subject: Subject) -> tuple[int, int]:
    """Return a model's layers and heads; one each if its attention cannot be shown, which the tab then says."""
    try:
        layers, heads, *_ = subject.model.attention("").shape
    except SettingError:
        return 1, 1
    return layers, heads
