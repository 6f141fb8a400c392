"""How a chat function can fail: told to the model, in words that it can act on."""

from __future__ import annotations

from bichat.errors import BichatError


class FunctionError(BichatError):
    """{reason}"""


class NoSuchFunction(FunctionError):
    """There is no such function; there are: {names}."""


class BadArguments(FunctionError):
    """The arguments do not fit: {reason}"""


class TooManyCalls(FunctionError):
    """Not called: at most {most} functions are called at once. Ask again for what is still needed."""


class TookTooLong(FunctionError):
    """It took longer than {seconds} s."""


class NothingLeft(FunctionError):
    """Not called: there is no {what} left for functions. Answer with what is known by now."""


class OutOfRoom(FunctionError):
    """Its result is too long: {size} bytes, and there is room for {room}. Ask for less."""


class FunctionBroken(FunctionError):
    """The function failed; calling it again will not help."""


class QueryRefused(FunctionError):
    """The query was not run: {reason}"""


class QueryFailed(FunctionError):
    """{reason}"""


class BusinessDatabaseUnavailable(FunctionError):
    """The business database cannot be reached right now."""
