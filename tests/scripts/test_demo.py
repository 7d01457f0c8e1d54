"""scripts/demo.py as a program; the page itself is tried in tests/inspection/test_page.py."""

import http.client
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.serving import demo

Run = Callable[..., Any]


def answer(address: str, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.read()
    return response


def test_it_serves_the_page_alone_and_ctrl_c_ends_it_with_one_line(run_folder: Path) -> None:
    with demo(f"ckpt={run_folder / 'checkpoints' / 'best.ckpt'}") as (address, process):
        for accepted, language in ("es-MX,es;q=0.9,en;q=0.8", "es"), ("de,en;q=0.5", "en"), ("x;q=y", "en"):
            assert answer(address, "/", **{"Accept-Language": accepted}).headers["location"] == f"{language}/"
        page = answer(address, "/es/")
        assert page.status == 200
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer(address, "/report/0").status == 200
        for path in "/report/1", "/report/-1", "/es/gradio_api/file=/etc/passwd", "/es/gradio_api/proxy=http://x.org/":
            assert answer(address, path).status == 404, path
        assert answer(address, "/es/gradio_api/upload", "POST").status == 404
        huge = {"Content-Length": str(100 << 20)}
        for headers in huge, {"Transfer-Encoding": "chunked"}, {"Content-Length": "-1"}:
            assert answer(address, "/es/gradio_api/queue/join", "POST", **headers).status in (400, 413), headers
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "stopped: the same command opens the page again\n"


def test_what_cannot_be_is_refused_in_one_line(run_script: Run, run_folder: Path) -> None:
    ckpt = f"ckpt={run_folder / 'checkpoints' / 'best.ckpt'}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, says in (
            ((ckpt, f"port={port}"), f"port={port}: is taken; port=0 takes a free one"),
            ((ckpt, "port=70000"), "port=70000: must be at least 0"),
            ((ckpt, "port=abc"), "port=abc: must be"),
            ((ckpt, "host=no.such.host.invalid"), "host=no.such.host.invalid: is no name or address of this machine"),
            ((ckpt, "host=192.0.2.1"), "host=192.0.2.1: is no address of this machine"),
            ((ckpt, "lang=ca"), "lang=ca: must be"),
            ((ckpt, "limits.tokens=0"), "limits.tokens=0: must be at least 1"),
            ((ckpt, "other=nowhere.ckpt"), "other=nowhere.ckpt: "),
            (("ckpt=nowhere.ckpt",), "ckpt=nowhere.ckpt: "),
        ):
            ended = run_script("demo", *arguments)
            assert ended.status == 2
            assert ended.stderr.startswith(f"error: {says}"), ended.stderr
            assert ended.stderr.count("\n") == 1
            assert ended.stdout == ""
