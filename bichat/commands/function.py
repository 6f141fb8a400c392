"""What is recorded of the functions that models are offered."""

from __future__ import annotations

from bichat.commands.command import Facts, FunctionCommand
from bichat.events.function import FunctionDescribed, FunctionState


class DescribeFunction(FunctionCommand, frozen=True, kw_only=True):
    """Says what a digest stands for, once for each tenant."""

    name: str
    schema: str


def decide_function(state: FunctionState, command: FunctionCommand) -> Facts:
    """Nothing when it is known already."""
    if isinstance(command, DescribeFunction):
        described = FunctionDescribed(name=command.name, digest=command.digest, schema=command.schema)
        return [] if state.tenant_id else [described]
    raise TypeError(type(command).__name__)
