"""Every metric that a process counts itself, in one place; what the database knows is in `api/metrics.py`.

In `bichat serve` the library keeps them in files that all parts share (`wiring.parts`), which is why every
gauge says how those of several processes become one. No label holds what a client can choose freely.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from functools import lru_cache, wraps
from multiprocessing import parent_process
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from bichat.errors import BichatError
from bichat.errors.model import ModelError
from bichat.errors.unusable import WrongSetting

disable_created_metrics()  # type: ignore[no-untyped-call]
if parent_process():  # of a rebuild: it ends soon, and its files would not
    values.ValueClass = values.MutexValue

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 900)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Histogram(
    "bichat_http_request_duration_seconds", "From an HTTP request to the first byte of its answer.",
    ["method", "route", "status"], buckets=_SHORT,
)  # fmt: skip
REFUSED = Counter(
    "bichat_http_requests_refused_total",
    "Requests beyond a limit, of a user or a tenant.",
    ["reason", "whose"],
)
STREAMS = Gauge("bichat_http_open_streams", "Server-sent streams open now.", multiprocess_mode="livesum")

COMMANDS = Counter("bichat_commands_total", "Commands by what became of them.", ["command", "outcome"])
QUEUE = Gauge(
    "bichat_writer_queue_commands", "Commands that wait for the writer.", multiprocess_mode="livesum"
)
BATCHES = Histogram("bichat_writer_batch_commands", "Commands in one batch.", buckets=_SIZES)
LOSERS = Counter("bichat_writer_losers_total", "Commands that a rival writer forestalled: decided anew.")
APPENDS = Histogram("bichat_writer_append_duration_seconds", "Appending one batch.", buckets=_SHORT)

CALLS = Histogram(
    "bichat_model_call_duration_seconds", "Calls to the model, whole.", ["model", "outcome"], buckets=_LONG
)
FIRST_WORDS = Histogram(
    "bichat_model_first_word_seconds", "From a call to its first word.", ["model"], buckets=_LONG
)
FUNCTIONS = Histogram(
    "bichat_function_duration_seconds", "Calls of functions by models.", ["function", "outcome"],
    buckets=_SHORT,
)  # fmt: skip
TOKENS = Counter("bichat_model_tokens_total", "Tokens, as the log accounts for them.", ["model", "kind"])

EVENTS = Counter(
    "bichat_projection_events_total", "Events folded into a build.", ["read_model", "version", "build"]
)
FOLDS = Histogram(
    "bichat_projection_batch_duration_seconds", "Folding and committing one batch.", ["read_model"],
    buckets=_SHORT,
)  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


# --- hooks ---------------------------------------------------------------------------------------

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """An HTTP request got its answer; `route` is a template, never what a client made up."""
    _requests(method if method in _METHODS else "other", route, status).observe(seconds)


def refused(error: BichatError) -> None:
    """A request was beyond a limit."""
    REFUSED.labels(type(error).__name__, error.facts.get("whose", "tenant")).inc()


_requests = lru_cache(4096)(REQUESTS.labels)  # a third of the price
_commands = lru_cache(4096)(COMMANDS.labels)


class _Done(Protocol):
    @property
    def replayed(self) -> bool: ...


D = TypeVar("D", bound=_Done)


def commands(
    execute: Callable[Concatenate[S, T, P], Coroutine[Any, Any, D]],
) -> Callable[Concatenate[S, T, P], Coroutine[Any, Any, D]]:
    """Counts what becomes of each command: done, replayed, cancelled (its caller left), or the error."""

    @wraps(execute)
    async def counted(self: S, command: T, /, *args: P.args, **kwargs: P.kwargs) -> D:
        outcome = "error"
        try:
            done = await execute(self, command, *args, **kwargs)
            outcome = "replayed" if done.replayed else "done"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except BichatError as error:
            outcome = type(error).__name__
            raise
        finally:
            _commands(type(command).__name__, outcome).inc()
        return done

    return counted


def batch(commands: int, waiting: int) -> None:
    """The writer took a batch, and left the rest waiting."""
    if commands:
        BATCHES.observe(commands)
    QUEUE.set(waiting)


def function(name: str, seconds: float, *, failed: bool) -> None:
    """A function that a model called has come back."""
    FUNCTIONS.labels(name, "failed" if failed else "done").observe(seconds)


_configured: set[str] = set()


def configured(models: Iterable[str]) -> None:
    """These models are counted under their names, every other one that clients think of as `other`."""
    _configured.update(models)


def _label(model: str) -> str:
    return model if model in _configured else "other"


class _Asks(Protocol):
    @property
    def model(self) -> str: ...


class _Says(Protocol):
    @property
    def text(self) -> str: ...


Q = TypeVar("Q", bound=_Asks)
C = TypeVar("C", bound=_Says)


def calls(stream: Callable[[S, Q], AsyncGenerator[C, None]]) -> Callable[[S, Q], AsyncGenerator[C, None]]:
    """Measures calls to the model: ok, interrupted (nobody waits any more), or the error's code."""

    @wraps(stream)
    async def measured(self: S, request: Q, /) -> AsyncGenerator[C, None]:
        model, began, silent, outcome = _label(request.model), time.perf_counter(), True, "error"
        try:
            async with aclosing(stream(self, request)) as chunks:
                async for chunk in chunks:
                    if silent and chunk.text:
                        silent = False
                        FIRST_WORDS.labels(model).observe(time.perf_counter() - began)
                    yield chunk
            outcome = "ok"
        except ModelError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "interrupted"
            raise
        finally:
            CALLS.labels(model, outcome).observe(time.perf_counter() - began)

    return measured


class _Used(Protocol):
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...


def tokens(model: str, used: _Used) -> None:
    """One call cost so much."""
    TOKENS.labels(_label(model), "prompt").inc(used.prompt_tokens)
    TOKENS.labels(_label(model), "completion").inc(used.completion_tokens)


class _Built(Protocol):
    @property
    def key(self) -> tuple[str, int, int]: ...


class _Follows(Protocol):
    @property
    def build(self) -> _Built: ...


F = TypeVar("F", bound=_Follows)


def folds(
    apply: Callable[[F, S, int, Sequence[T]], R],
) -> Callable[[F, S, int, Sequence[T]], R]:
    """Measures the batches that a runner commits."""

    @wraps(apply)
    def measured(self: F, connection: S, position: int, events: Sequence[T], /) -> R:
        began = time.perf_counter()
        applied = apply(self, connection, position, events)
        FOLDS.labels(self.build.key[0]).observe(time.perf_counter() - began)
        EVENTS.labels(*self.build.key).inc(len(events))
        return applied

    return measured


# --- showing them --------------------------------------------------------------------------------


def registry() -> CollectorRegistry:
    """What there is to show: of all parts in `bichat serve`, else of this process."""
    shared = CollectorRegistry()
    try:
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
    except ValueError:  # no directory was given to this process
        return REGISTRY
    return shared


def serve(host: str, port: int) -> None:
    """Shows them to whoever asks at this port, from a thread of its own; raises `WrongSetting`."""
    try:
        start_http_server(port, host, registry())
    except OSError as error:
        reason = f"{port} on {host} cannot be listened at ({error.strerror})"
        raise WrongSetting(name="BICHAT_METRICS_PORT", reason=reason) from None
