"""A dialogue as it is read on the page: each question with the calls and the answer that came of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from bichat.api.page.cards import Card, card
from bichat.events.transcript import Dialogue, Message, Turn

LONGEST_NAME = 60


class Entry(Struct, frozen=True, kw_only=True):
    """What one message, most often a question, began."""

    said: Message | None
    """None when it is not among the messages at hand: the page before ends with it."""
    turn: Turn | None = None
    calls: tuple[Message, ...] = ()
    answer: Message | None = None
    asleep: bool = False
    """Waits for the quiet hours."""

    @property
    def id(self) -> str:
        """The question's."""
        of = self.said.id if self.said else self.answer.reply_to if self.answer else self.calls[0].reply_to
        return str(of)

    @property
    def status(self) -> str:
        """How the reply stands; "" where none is wanted."""
        return self.turn.status if self.turn else ""

    @property
    def open(self) -> bool:
        """Whether there will be an answer."""
        return self.status in ("waiting", "running")

    @property
    def cards(self) -> list[Card]:
        """The calls of the last attempt, each with its return."""
        last = max((call.attempt for call in self.calls), default=0)
        if self.turn and self.turn.status == "waiting":
            last = -1  # what was called before is called again
        of_last = [call for call in self.calls if call.attempt == last]
        returns = {call.call_id: call for call in of_last if _returned(call)}
        return [card(call, returns.get(call.call_id)) for call in of_last if not _returned(call)]


def _returned(message: Message) -> bool:
    return message.arguments == "" and message.content != ""


def entries(dialogue: Dialogue, asleep: Collection[UUID] = ()) -> list[Entry]:
    """The messages at hand, in order; what came of a question stands with it, however late it came."""
    found: dict[object, Entry] = {}
    for message in dialogue.messages:
        if message.reply_to is None:
            found[message.id] = Entry(
                said=message, turn=dialogue.turns.get(message.id), asleep=message.id in asleep
            )
            continue
        entry = found.get(message.reply_to, Entry(said=None))
        if message.role == "tool":
            entry = replace(entry, calls=(*entry.calls, message))
        else:
            entry = replace(entry, answer=message)
        found[message.reply_to] = entry
    return list(found.values())


def name(label: str | None, texts: Iterable[str | None]) -> str:
    """A dialogue's label, or the first words of the first of `texts` that has any; "" once all are erased."""
    words = label or next(filter(None, (" ".join((text or "").split()) for text in texts)), "")
    if label or len(words) <= LONGEST_NAME:
        return words
    return words[:LONGEST_NAME].rsplit(" ", 1)[0] + "…"
