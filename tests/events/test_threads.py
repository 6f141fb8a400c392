"""Threads that open stored events at the same moment, for the first time in their process."""

from __future__ import annotations

import subprocess
import sys

TOGETHER = """
import sys, threading
from contextlib import suppress
import msgspec
from bichat import rendering
from bichat.events import audit, codec, dialogue, dialogue_state, function, person, prompt, seal
from bichat.events.envelope import kinds
from bichat.model import remote

frozen = [dialogue_state._Frozen, person._Frozen]
states = [audit.AuditState, function.FunctionState, prompt.PromptState, *frozen]
others = [seal.Sealed, rendering._Told, remote._Answer]

def opened(cls, ready):
    ready.wait()
    with suppress(msgspec.ValidationError):
        msgspec.convert(dict.fromkeys(cls.__struct_fields__), cls)

sys.setswitchinterval(1e-6)
for cls in [kind.cls for _, kind in kinds()] + states + others:
    ready = threading.Barrier(4)
    threads = [threading.Thread(target=opened, args=(cls, ready)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("done")
"""


def test_threads_that_open_their_first_events_together_do_not_end_the_process() -> None:
    for _ in range(5):  # without preparing, nearly every one ends by SIGSEGV, in msgspec
        done = subprocess.run(
            [sys.executable, "-c", TOGETHER], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-500:]
