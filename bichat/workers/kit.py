"""What the turns of a process work with."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from bichat.commands.execute import Executor
from bichat.deltas import Deltas
from bichat.events.ledger import Ledger
from bichat.limits import Limits
from bichat.model import Model
from bichat.workers.prompts import Prompts
from bichat.workers.toolbox import Toolbox


class Kit(Struct, frozen=True, kw_only=True):
    """One for all of a process."""

    executor: Executor
    ledger: Ledger
    model: Model
    deltas: Deltas
    toolbox: Toolbox
    """The functions that models are offered."""
    prompts: Prompts
    models: tuple[str, ...]
    """The model's name, then the fallback's if there is one."""
    budget: int
    """Tokens of prompt and history."""
    limits: Limits
    """Where tokens that were used are counted."""
    quiet: Callable[[], bool]
    """Whether these are the quiet hours."""
