"""An HTTP server on loopback that sends files, with ranges, and fails as it is told."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """``files`` by path. ``cuts`` are the numbers of bytes after which the next answers end; ``ranges`` says whether
    ``Range`` is understood; ``asked`` collects the range of every request."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        data = self.files.get(handler.path)
        if data is None:
            handler.send_error(404)
            return
        begin = 0
        same = handler.headers.get("If-Range") in (None, self.etag)
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "") if self.ranges and same else None
        if found and int(found[1]) >= len(data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(data)}")
            handler.end_headers()
            return
        if found:
            begin = int(found[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) - begin))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        end = begin + self.cuts.pop(0) if self.cuts else len(data)
        with contextlib.suppress(ConnectionError):  # whoever saw a wrong size in the headers has left
            handler.wfile.write(data[begin:end])


@contextlib.contextmanager
def serve() -> Iterator[FileServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files = FileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
