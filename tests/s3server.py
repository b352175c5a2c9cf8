"""A real S3 server on loopback for tests, which can fail on request.

Moto answers, behind a layer that injects faults; conditional puts are made atomic by one lock, as a real service has
them.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

BUCKET = "features"
SLOW_SECONDS = 0.3
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}

# Told the method, the path and how many requests came before; names a fault: "500", "cut" (the connection is dropped
# before the request is carried out), "cut-after" (after it), "slow" (the answer takes a while), or None.
Faults = Callable[[str, str, int], str | None]


@dataclass
class S3Server:
    """A running server. ``url`` is a fresh prefix of its bucket for every name."""

    port: int
    faults: Faults = lambda method, path, number: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    injected: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a client, also in another process, needs in its environment."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true"}

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{name}"


@contextmanager
def serve() -> Iterator[S3Server]:
    """An S3 server with an empty bucket; it ends with the block."""
    from moto.server import create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:
            """Nothing: the tests' output is their own."""

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    answer = create_backend_app("s3")
    lock = threading.Lock()
    server = S3Server(0)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with lock:
            number = len(server.requests)
            server.requests.append((method, path))
            fault = server.faults(method, path, number)
            if fault is not None:
                server.injected.append(fault)
            if fault == "500":
                start_response("500 Internal Server Error", [("Content-Length", "0")])
                return [b""]
            body = [] if fault == "cut" else list(answer(environ, start_response))
            if fault in ("cut", "cut-after"):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if fault == "slow":
            time.sleep(SLOW_SECONDS)  # others are answered meanwhile
        return body

    http = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    server.port = http.port
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        _make_bucket(server)
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _make_bucket(server: S3Server) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_REGION"],
    )
    client.create_bucket(Bucket=BUCKET)


@contextmanager
def in_environment(server: S3Server) -> Iterator[None]:
    """Let clients of this process find the server."""
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
