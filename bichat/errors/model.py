"""How a reply can fail: what ends up in `reply.failed`, and in the log under its code."""

from __future__ import annotations

import re

from bichat.errors import BichatError


class ModelError(BichatError):
    """{detail}"""

    code = "model_error"
    """Of a kind: its name in snake case. It is stored, so a kind, like a fact, keeps its name."""

    def __init_subclass__(cls) -> None:
        cls.code = vars(cls).get("code") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def retry_after(self) -> float | None:
        """Seconds that the model's server asked to be left alone for, if it did."""
        wait = self.facts.get("retry_after")
        return wait if isinstance(wait, float) else None


class ModelUnavailable(ModelError):
    """The model cannot be reached or is overloaded: {detail}"""


class ModelCutOff(ModelError):
    """The model's stream ended before the answer did: {detail}"""


class ModelNonsense(ModelError):
    """The model's stream could not be understood: {detail}"""


class ModelSilent(ModelError):
    """The model said nothing for {seconds} s."""


class ModelRefused(ModelError):
    """The model's server refused the request: {detail}"""


class FunctionsRefused(ModelError):
    """The model's server takes no functions: {detail}"""


class RoundsExhausted(ModelError):
    """The model called functions {rounds} times over and did not answer."""


class ContextTooLong(ModelError):
    """The question alone is {tokens} tokens; the model is shown at most {budget}."""


class WorkerStopped(ModelError):
    """The worker stopped in the middle of the reply; another goes on."""


class WorkerLost(ModelError):
    """{attempts} attempts ended without a word from their worker."""


class QuestionErased(ModelError):
    """The question's text was erased: its person was forgotten."""


class QuestionParked(ModelError):
    """The question could not be queued: an operator has been told, ask again later."""

    code = "parked"
