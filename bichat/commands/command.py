"""What every command is: something asked of one stream."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar
from uuid import UUID

from msgspec import Struct

from bichat.events import audit, function, person, prompt
from bichat.events.audit import UNREAD
from bichat.events.dialogue_state import NOTHING
from bichat.events.envelope import Fact
from bichat.events.function import UNKNOWN
from bichat.events.person import NOBODY
from bichat.events.prompt import UNWRITTEN
from bichat.events.state import State

Facts = list[Fact]
"""What a decision makes of a command; none when it changes nothing."""


class Command(Struct, frozen=True, kw_only=True):
    """Something asked of one stream; ids are minted by whoever sends it."""

    nothing: ClassVar[State]
    """The state of such a stream before its first event."""
    says: ClassVar[bool] = True
    """Whether the facts that it leads to may hold text of the stream's owner."""

    @property
    @abstractmethod
    def stream_id(self) -> UUID:
        """Of which stream it is asked."""


class DialogueCommand(Command, frozen=True, kw_only=True):
    """Something asked of one dialogue."""

    nothing: ClassVar[State] = NOTHING

    dialogue_id: UUID

    @property
    def stream_id(self) -> UUID:
        """The dialogue's."""
        return self.dialogue_id


class OpsCommand(DialogueCommand, frozen=True, kw_only=True):
    """Something asked of any dialogue of the tenant; whoever sends it has seen that the person may."""


class PersonCommand(Command, frozen=True, kw_only=True):
    """Something asked about a person of the tenant, by those who may."""

    nothing: ClassVar[State] = NOBODY
    says: ClassVar[bool] = False

    tenant_id: UUID
    user_id: str

    @property
    def stream_id(self) -> UUID:
        """The person's."""
        return person.stream_of(self.tenant_id, self.user_id)


class FunctionCommand(Command, frozen=True, kw_only=True):
    """Something to be recorded about one form of a function."""

    nothing: ClassVar[State] = UNKNOWN
    says: ClassVar[bool] = False

    tenant_id: UUID
    digest: str

    @property
    def stream_id(self) -> UUID:
        """That of the form."""
        return function.stream_of(self.tenant_id, self.digest)


class PromptCommand(Command, frozen=True, kw_only=True):
    """Something asked of one prompt of the tenant, by those who may."""

    nothing: ClassVar[State] = UNWRITTEN
    says: ClassVar[bool] = False

    tenant_id: UUID
    name: str

    @property
    def stream_id(self) -> UUID:
        """The prompt's."""
        return prompt.stream_of(self.tenant_id, self.name)


class AuditCommand(Command, frozen=True, kw_only=True):
    """Something to be recorded about the audit of a tenant."""

    nothing: ClassVar[State] = UNREAD

    tenant_id: UUID

    @property
    def stream_id(self) -> UUID:
        """That of the tenant's audit."""
        return audit.stream_of(self.tenant_id)
