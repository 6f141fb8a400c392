"""Traces with OpenTelemetry, from the request over the log to the reply: off, and free, unless configured."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from bichat import __version__
from bichat.config import Config
from bichat.errors import Refused
from bichat.errors.model import ModelError
from bichat.errors.unusable import WrongSetting

if TYPE_CHECKING:  # none of it is imported before traces are on: it takes long, and may not be installed
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as Span  # noqa: PLC0414 - for those who take one
    from opentelemetry.trace import Tracer

    _Spanning = AbstractContextManager[Span | None]

Kind = Literal["internal", "server", "client", "consumer"]

FLUSH = 1.0
"""Seconds that the last spans have to reach the collector when the process stops."""
_PATIENCE = 5.0
"""Seconds that the collector may take for a batch."""
_AGAIN = 3600.0
"""Seconds until it is said again that the collector is away."""
_LONGEST = 512
"""Characters of a traceparent: the library looks at no more, and writes a line about each that has."""

_OFF: _Spanning = nullcontext()
_tracer: Tracer | None = None
"""None while traces are off."""


def check(config: Config) -> None:
    """Raises `WrongSetting` when traces are wanted and the packages for them are not there."""
    if config.otel_exporter_otlp_endpoint and not _installed():
        reason = "needs OpenTelemetry's packages: pip install 'bichat[tracing]'"
        raise WrongSetting(name="OTEL_EXPORTER_OTLP_ENDPOINT", reason=reason)


@contextmanager
def on(config: Config, part: str) -> Iterator[None]:
    """Spans are made and sent while this is open, if an endpoint is configured; then the last are flushed.

    Raises `WrongSetting` when the packages are missing.
    """
    global _tracer  # noqa: PLW0603 - one for the process, like its log
    check(config)
    if not config.otel_exporter_otlp_endpoint:
        yield
        return
    name = config.otel_service_name or f"bichat-{part}"
    provider = _provider(config.otel_exporter_otlp_endpoint, name)
    _tracer = provider.get_tracer("bichat", __version__)
    try:
        yield
    finally:
        _tracer = None
        # In a thread that is left behind: the library waits up to half a minute for a collector that is away.
        flush = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        flush.start()
        flush.join(FLUSH)


def enabled() -> bool:
    """Whether spans are made at all."""
    return _tracer is not None


def span(name: str, kind: Kind = "internal", *, parent: str | None = None) -> _Spanning:
    """A span around what happens inside; None while traces are off.

    Below the current span, or below the traceparent `parent`; one that is empty or broken begins a trace. An
    error ends it as failed, by its name alone: an error's words may be a person's.
    """
    return _OFF if _tracer is None else _span(_tracer, name, kind, parent)


def traceparent() -> str:
    """The current span as the W3C writes it; empty while traces are off."""
    if _tracer is None:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def failed(span: Span, kind: str) -> None:
    """Marks a span as gone wrong; `kind` is of a few words that the program knows."""
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


@contextmanager
def _span(tracer: Tracer, name: str, kind: Kind, parent: str | None) -> Iterator[Span]:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = None
    if parent is not None:
        carrier = {"traceparent": parent} if len(parent) <= _LONGEST else {}
        context = TraceContextTextMapPropagator().extract(carrier, Context())
    with tracer.start_as_current_span(
        name, context, SpanKind[kind.upper()], record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as error:
            if isinstance(error, Refused):  # as it should be
                current.set_attribute("error.type", type(error).__name__)
            else:
                failed(current, error.code if isinstance(error, ModelError) else type(error).__name__)
            raise


# --- sending them ------------------------------------------------------------------------------------


def _provider(endpoint: str, service: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    for name in _TELL_OF_FAILURE:
        logging.getLogger(name).addFilter(_seldom)
    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_PATIENCE)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _installed() -> bool:
    try:
        return all(find_spec(name) for name in _PACKAGES)
    except ModuleNotFoundError:  # not even the package around them
        return False


_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_TELL_OF_FAILURE = (_PACKAGES[1], "opentelemetry.sdk._shared_internal", "opentelemetry.sdk.trace.export")


class _Seldom(logging.Filter):
    """Lets one line through and then none for an hour: the library complains with every batch."""

    def __init__(self) -> None:
        super().__init__()
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is let through."""
        now = time.monotonic()
        if now < self._until:
            return False
        self._until = now + _AGAIN
        return True


_seldom = _Seldom()
