"""A proxy before a wiki's API that counts the requests and, where asked, spoils some of them."""

import contextlib
import json
import random
import socket
import struct
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("429", "503", "reset", "truncated", "html", "stall", "maxlag", "ratelimited")
STALL = 30.0  # seconds


class Proxy(ThreadingHTTPServer):
    """Hands requests on to an api.php.

    Args:
        api_url: of the wiki behind it.
        faults: kinds of faults to inject.
        share: of the requests to spoil.
        seed: of the choice.

    Attributes:
        requests: the parameters of every request that came, in order.
        headers: the headers of the last one.
        injected: the faults injected, in order.
    """

    daemon_threads = True

    def __init__(self, api_url: str, faults: tuple[str, ...] = (), share: float = 1 / 3, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.faults, self.share = api_url, faults, share
        self.random = random.Random(seed)
        self.requests: list[dict[str, str]] = []
        self.headers: dict[str, str] = {}
        self.injected: list[str] = []
        self.closing = threading.Event()

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api.php"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up: they were made to."""


class Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(urllib.parse.urlsplit(self.path).query, None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(body.decode(), body)

    def answer(self, query: str, body: bytes | None) -> None:
        proxy = self.server
        proxy.requests.append(dict(urllib.parse.parse_qsl(query)))
        proxy.headers = dict(self.headers)
        fault = proxy.random.choice(proxy.faults) if proxy.faults and proxy.random.random() < proxy.share else None
        if fault:
            proxy.injected.append(fault)
        if fault in ("429", "503"):
            self.send(b"Too many requests", int(fault), "text/plain", {"Retry-After": "0"})
        elif fault == "html":
            self.send(b"<!DOCTYPE html><title>Wikimedia Error</title>", 200, "text/html")
        elif fault in ("maxlag", "ratelimited"):
            error = {"error": {"code": fault, "info": "Waiting for 10.0.0.1: 6 seconds lagged."}}
            self.send(json.dumps(error).encode(), 200, "application/json", {"Retry-After": "0"})
        elif fault == "stall":
            proxy.closing.wait(STALL)
        else:
            address = proxy.behind if body is not None else f"{proxy.behind}?{query}"
            with urllib.request.urlopen(address, body, timeout=60) as response:
                content = response.read()
            if fault == "truncated":
                content = content[: len(content) // 2]
            self.send(content, 200, "application/json", half=fault == "reset")

    def send(
        self, content: bytes, status: int, kind: str, headers: dict[str, str] | None = None, half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)
        if half:  # a reset instead of a farewell
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def proxy_before(api_url: str, faults: tuple[str, ...] = (), share: float = 1 / 3, seed: int = 0) -> Iterator[Proxy]:
    with Proxy(api_url, faults, share, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.closing.set()
            proxy.shutdown()
            thread.join()
