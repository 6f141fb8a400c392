"""What a command makes of a state: who may ask, and which module decides."""

from __future__ import annotations

from typing import Any

from bichat.commands.audit import decide_audit
from bichat.commands.command import (
    AuditCommand,
    Command,
    Facts,
    FunctionCommand,
    OpsCommand,
    PersonCommand,
    PromptCommand,
)
from bichat.commands.dialogue import StartDialogue, change, start
from bichat.commands.function import decide_function
from bichat.commands.person import decide_person
from bichat.commands.prompt import decide_prompt
from bichat.commands.reply import WorkerCommand, decide_reply
from bichat.errors import NotFound
from bichat.events.dialogue_state import DialogueState
from bichat.events.envelope import Metadata


def decide(state: Any, command: Command, by: Metadata) -> Facts:
    """The facts that `command` makes of `state`; none when it changes nothing.

    Raises a `Refused` kind. A person only ever reaches dialogues of their own, but for an `OpsCommand`
    those of their tenant: another's, another tenant's and none at all are the same `NotFound`. Commands on
    a person or the audit name the tenant, and are sent by those who may.
    """
    if isinstance(command, AuditCommand):
        return decide_audit(state, command)
    if isinstance(command, PersonCommand):
        return decide_person(state, command)
    if isinstance(command, PromptCommand):
        return decide_prompt(state, command)
    if isinstance(command, FunctionCommand):
        return decide_function(state, command)
    return _of_dialogue(state, command, by)


def _of_dialogue(state: DialogueState, command: Command, by: Metadata) -> Facts:
    if isinstance(command, StartDialogue):
        return start(state, command)
    foreign = state.lifecycle == "none" or state.tenant_id != by.tenant_id
    own = by.actor.kind != "user" or state.user_id == by.actor.id
    if foreign or not (own or isinstance(command, OpsCommand)):
        raise NotFound(what="dialogue")
    if isinstance(command, WorkerCommand):
        return decide_reply(state, command)
    return change(state, command)
