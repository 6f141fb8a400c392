"""What every command is: something asked of one dialogue."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from bichat.events.envelope import Fact

Facts = list[Fact]
"""What a decision makes of a command; none when it changes nothing."""


class Command(Struct, frozen=True, kw_only=True):
    """Something asked of one dialogue; ids are minted by whoever sends it."""

    dialogue_id: UUID


class OpsCommand(Command, frozen=True, kw_only=True):
    """Something asked of any dialogue of the tenant; whoever sends it has seen that the person may."""
