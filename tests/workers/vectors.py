"""A server of embeddings over OpenAI's protocol, real but for its model: texts that share words are near."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIZE = 64


def vector(text: str, size: int = SIZE) -> list[float]:
    """Each word has a place."""
    made = [0.001] * size
    for word in text.lower().split():
        made[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % size] += 1.0
    return made


def answer(texts: list[str], size: int = SIZE) -> dict[str, Any]:
    """As OpenAI's."""
    data = [{"object": "embedding", "index": n, "embedding": vector(t, size)} for n, t in enumerate(texts)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


class Vectors:
    """What it was asked, and what it says next: status and body, or an exception to cut the line."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.models: list[str] = []
        self.says: Callable[[list[str]], tuple[int, Any]] = lambda texts: (200, answer(texts))
        self.url = ""

    @property
    def texts(self) -> list[str]:
        """All texts that it was sent, but for the workers' own."""
        return [text for texts in self.calls for text in texts if text != "bichat"]


@contextmanager
def served() -> Iterator[Vectors]:
    """Runs one."""
    vectors = Vectors()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            vectors.calls.append(asked["input"])
            vectors.models.append(asked["model"])
            status, body = vectors.says(asked["input"])
            said = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            """Is quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    vectors.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield vectors
    finally:
        server.shutdown()
        server.server_close()
