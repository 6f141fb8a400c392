"""What ops ask of a tenant's prompts, and what is decided on it: pure functions of state and command."""

from __future__ import annotations

from bichat.commands.command import Facts, PromptCommand
from bichat.errors import NotFound
from bichat.events.prompt import PromptChanged, PromptRemoved, PromptState, digest


class ChangePrompt(PromptCommand, frozen=True, kw_only=True):
    """Gives the prompt another text; who sends it has seen that the text is a template."""

    template: str


class RemovePrompt(PromptCommand, frozen=True, kw_only=True):
    """Takes the prompt away; its versions stay in the log."""


def decide_prompt(state: PromptState, command: PromptCommand) -> Facts:
    """The same text again changes nothing."""
    match command:
        case ChangePrompt(name=name, template=template):
            same = state.there and state.digest == digest(template)
            return [] if same else [PromptChanged(name=name, template=template)]
        case RemovePrompt(name=name):
            if not state.there:
                raise NotFound(what="prompt")
            return [PromptRemoved(name=name)]
    raise TypeError(type(command).__name__)
