"""Serve the page on this machine."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

# Set before Gradio is imported, which otherwise reports its use and looks for newer versions.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SHARE": "False", "HF_HUB_OFFLINE": "1"}

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from gradio.themes.utils.fonts import Font

from minillm.errors import SettingError
from minillm.inspection.page.asking import Subject
from minillm.inspection.page.blocks import CSS, Limits, Page
from minillm.inspection.page.labels import LABELS, Language, preferred

FIRST_PORT, LAST_PORT = 7860, 7959  # Gradio's own range
LARGEST_REQUEST = 4 << 20  # bytes; the page's own requests are far smaller
# Browsers enforce it for all content of the page. Gradio builds functions from text, hence unsafe-eval.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# Gradio's addresses for files, which the page does not need.
FILES = ("/gradio_api/upload", "/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream", "/gradio_api/deep_link")


def serve(subjects: Sequence[Subject], listening: socket.socket, lang: Language | None, limits: Limits) -> None:
    """Serve the page until a signal ends the program.

    Args:
        subjects: its models.
        listening: the socket.
        lang: of the page; None: each browser's own.
        limits: of a visitor's requests.
    """
    config = uvicorn.Config(
        application(list(subjects), lang, limits), log_config=None, log_level="critical", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listening])


def application(subjects: list[Subject], lang: Language | None, limits: Limits) -> FastAPI:
    """Return the web application: the page in both languages, ``/`` redirects to one, ``/report/0`` is a report.

    Args:
        subjects: as for `serve`.
        lang: as for `serve`.
        limits: as for `serve`.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guarded(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if any(path in request.url.path for path in FILES):
            return Response(status_code=404)
        # The size of a chunked body is unknown.
        size = "" if "transfer-encoding" in request.headers else request.headers.get("content-length", "0")
        if not size.isdecimal() or int(size) > LARGEST_REQUEST:
            labels = LABELS["es" if request.url.path.startswith("/es/") else "en"]
            return JSONResponse({"detail": labels.too_large.format(most=limits.characters)}, status_code=413)
        response = await answer(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.get("/")
    async def start(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{lang or preferred(request.headers.get('accept-language', ''))}/")

    @app.get("/report/{number}")
    async def report(number: int) -> FileResponse:
        path = subjects[number].report if 0 <= number < len(subjects) else None
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/manifest.json")  # which Gradio's page requests
    async def manifest() -> dict[str, str]:
        return {"name": "miniLLM", "start_url": "/", "display": "browser"}

    fonts = [Font("system-ui"), Font("sans-serif")]
    theme = gr.themes.Base(font=fonts, font_mono=[Font("ui-monospace"), Font("monospace")])
    for language, labels in LABELS.items():
        gr.mount_gradio_app(
            app,
            Page(subjects, labels, limits).build(),
            f"/{language}",
            theme=theme,
            css=CSS.read_text(encoding="utf-8"),
            head=f"<script>document.documentElement.lang = '{language}'</script>",
            footer_links=[],
            run_history=False,
            show_error=False,
            ssr_mode=False,
            max_file_size=0,
        )
    return app


def listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket.

    Args:
        host: name or address of this machine.
        port: 0: any free one; None: the first free one from 7860 on.

    Raises:
        SettingError: the host is not this machine's, or the port is taken.
    """
    if port is not None and not 0 <= port < 1 << 16:
        raise SettingError("port", port, "must be at least 0 (any free one) and at most 65535, such as 7860")
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise SettingError("host", host, "is no name or address of this machine; 127.0.0.1 would do") from error
    for tried in range(FIRST_PORT, LAST_PORT + 1) if port is None else [port]:
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, tried))
            listening.listen()
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise SettingError("port", tried, "may not be used by this user; 7860 would do") from error
            raise SettingError("host", host, "is no address of this machine; 127.0.0.1 would do") from error
        return listening
    taken = f"{FIRST_PORT} to {LAST_PORT} are" if port is None else "is"
    raise SettingError("port", port, f"{taken} taken; port=0 takes a free one")


def address_of(listening: socket.socket) -> str:
    """Return the page's address for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
