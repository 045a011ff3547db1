"""An HTTP proxy on 127.0.0.1 that stands between a run and its object store, and can misbehave."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>no</Message></Error>"


class Proxy:
    """Passes requests on to ``port``; ``faults`` says which ones go wrong.

    Attributes:
        faults: [pattern of "METHOD path", times left, what: an HTTP status, or ``corrupt``]; looked through in order.
        seen: every "METHOD path" that came.
    """

    def __init__(self, port: int) -> None:
        self.behind = port
        self.faults: list[list[Any]] = []
        self.seen: list[str] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy._pass_on(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _fault(self, line: str) -> Any:
        with self._lock:
            self.seen.append(line)
            for fault in self.faults:
                if fault[1] > 0 and re.search(fault[0], line):
                    fault[1] -= 1
                    return fault[2]
        return None

    def _pass_on(self, request: Any) -> None:
        if self._server is None:  # a connection from before the stop
            request.close_connection = True
            return
        body = self._body(request)
        fault = self._fault(f"{request.command} {request.path}")
        if isinstance(fault, int):
            code = b"SlowDown" if fault == 503 else b"AccessDenied" if fault == 403 else b"InternalError"
            self._answer(request, fault, [("Content-Type", "application/xml")], ERROR % code)
            return
        behind = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=60)
        own = ("transfer-encoding", "content-length", "expect", "connection")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in own}
        behind.request(request.command, request.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        if fault == "corrupt":
            content = bytes(byte ^ 1 for byte in content)
        self._answer(request, answer.status, answer.getheaders(), content)

    @staticmethod
    def _body(request: Any) -> bytes:
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return bytes(request.rfile.read(int(request.headers.get("Content-Length") or 0)))
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    @staticmethod
    def _answer(request: Any, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        request.send_response_only(status)
        for name, value in headers:
            own = name.lower() in ("transfer-encoding", "connection")
            if not own and (name.lower() != "content-length" or request.command == "HEAD"):
                request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


class FaultyProxy:
    """A ``Proxy`` in a process of its own: pyarrow closes streams under Python's lock, which an answer from this process would need."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, __file__, str(port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = str(self._ask("url"))

    def _ask(self, name: str, value: Any = None) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, value]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def faults(self) -> list[list[Any]]:
        return list(self._ask("faults"))

    @faults.setter
    def faults(self, value: list[list[Any]]) -> None:
        self._ask("faults", value)

    def start(self) -> None:
        self._ask("start")

    def stop(self) -> None:
        """Connections are refused from now on."""
        self._ask("stop")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    proxy = Proxy(int(sys.argv[1]))
    for line in sys.stdin:
        name, value = json.loads(line)
        found = getattr(proxy, name)
        if callable(found):
            found = found()
        elif value is not None:
            setattr(proxy, name, value)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
