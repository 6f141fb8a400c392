"""Checks an export on its own: no database, no settings, no key but the public one that is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, NoReturn, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from bichat.audit.exported import VERSION, Ending, Line, Manifest, encoded
from bichat.errors.unusable import NotProven
from bichat.events.codec import DEEPEST, StoredRow, decoded
from bichat.events.history import AuditEvent, audit_events
from bichat.events.proof import merkle
from bichat.events.proof.seals import Seal, leaf
from bichat.events.recorder import stored_row
from bichat.events.seal import GENESIS, SALT, Place, Sealed, chain
from bichat.terminal import line as one_line

LONGEST = 64_000_000
"""Bytes of a line: more is no event."""

LONGEST_NAME = 100
"""Characters of a name in the file that are told."""
FIELDS = 5
"""That are named, at most."""

_LONGEST_TYPE = 1000

T = TypeVar("T", Manifest, Line, Ending)

_encode = msgspec.json.Encoder().encode
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Manifest, Line, Ending)
}


class Proven(Struct, frozen=True, kw_only=True):
    """What the file proves: so many events of this dialogue, as they stood when `seal` was made."""

    dialogue_id: UUID
    tenant_id: UUID
    events: int
    texts: int
    """That are shown, and are what was said."""
    withheld: int
    """That are erased, or not shown."""
    seal: Seal
    head_hash: str
    first_at: datetime | None
    last_at: datetime | None


def check(file: BinaryIO, trusted: frozenset[bytes]) -> Proven:
    """Reads the file once, a line at a time. Raises `NotProven`, naming the first bad line."""
    return _Reader(file, trusted).read()


class _Revealed:
    """Opens the sealed fields of which text and salt are shown, if they are what was committed to."""

    def __init__(self, line: Line) -> None:
        self.opened = self.shut = 0
        self._texts: dict[bytes, str] = {}
        for name, salt in line.proof.salts.items():
            text = (line.event.data or {}).get(name)
            if isinstance(text, str) and len(salt) == SALT:
                self._texts[hashlib.sha256(salt + text.encode()).digest()] = text

    def prepare_ids(self, key_ids: Iterable[UUID], /) -> None:
        """There is nothing to prepare."""

    def by_id(self, key_id: UUID, /) -> _Revealed:
        """This, for every key."""
        return self

    def open(self, sealed: Sealed, place: bytes, /) -> str | None:
        """The text that is shown; None when none is, or another one."""
        text = self._texts.get(sealed.commitment)
        self.opened, self.shut = self.opened + (text is not None), self.shut + (text is None)
        return text


class _Reader:
    def __init__(self, file: BinaryIO, trusted: frozenset[bytes]) -> None:
        self._file, self._trusted = file, trusted
        self._number = 0
        self._hash = GENESIS
        self._opened = self._shut = 0
        self._first: datetime | None = None
        self._last: datetime | None = None

    def read(self) -> Proven:
        manifest = self._next(Manifest)
        if manifest.version != VERSION:
            self._refuse(f"this is version {manifest.version} of the format, known is {VERSION}")
        if manifest.events < 1:
            self._refuse("it says that there are no events")
        for version in range(1, manifest.events + 1):
            self._event(manifest, version, self._next(Line))
        ending = self._next(Ending)
        self._seal(manifest, ending)
        if self._file.read(1):
            self._number += 1
            self._refuse("there is more after the seal")
        return Proven(
            dialogue_id=manifest.dialogue_id, tenant_id=manifest.tenant_id, events=manifest.events,
            texts=self._opened, withheld=self._shut, seal=ending.seal, head_hash=self._hash.hex(),
            first_at=self._first, last_at=self._last,
        )  # fmt: skip

    def _next(self, kind: type[T]) -> T:
        self._number += 1
        line = self._file.readline(LONGEST + 1)
        if not line:
            self._refuse("the file ends here")
        if len(line) > LONGEST:
            self._refuse("it is too long")
        if not line.endswith(b"\n"):
            self._refuse("the file ends in the middle of it")
        try:
            found: T = decoded(_DECODERS[kind], line, DEEPEST + 10)
            same = encoded(found) == line[:-1]
        except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
            self._refuse(f"it is not {_NAMES[kind]}")
        if not same:  # twice the same field, unknown ones, another notation: what is read is what is shown
            self._refuse("it is not written as bichat writes it")
        return found

    def _event(self, manifest: Manifest, version: int, line: Line) -> None:
        event, state = line.event, line.proof.state
        if event.version != version:
            self._refuse(f"it is version {event.version}, and version {version} is due")
        place = Place(manifest.tenant_id, manifest.dialogue_id, version, event.type)
        if len(event.type) > _LONGEST_TYPE:
            self._refuse("its type is none")
        hash_ = chain(self._hash, place, event.command_id, state)
        if event.hash != hash_.hex():
            self._refuse("what was stored does not give its hash: it was changed, or another was before it")
        revealed = _Revealed(line)
        row = _row(manifest, event, state, self._hash, hash_)
        (told,) = audit_events([row], revealed)
        if _encode(told) != _encode(event):  # in Python, 1 == True == 1.0
            self._refuse(
                f"it shows what was not stored: {', '.join(islice(_differing(told, event), FIELDS))}"
            )
        if len(line.proof.salts) != revealed.opened:
            self._refuse("it has salts that prove nothing")
        self._hash = hash_
        self._opened, self._shut = self._opened + revealed.opened, self._shut + revealed.shut
        self._first, self._last = self._first or event.at, event.at

    def _seal(self, manifest: Manifest, ending: Ending) -> None:
        seal, path = ending.seal, ending.path
        if seal.public_key not in self._trusted:
            self._refuse("the seal is by another key than the one given")
        if not seal.is_signed(self._trusted):
            self._refuse("the seal's signature is wrong")
        head = leaf(manifest.tenant_id, manifest.dialogue_id, manifest.events, self._hash)
        if merkle.climb(head, path.index, seal.streams, path.hashes) != seal.root:
            self._refuse("these events are not under this seal: some are missing, or it is another's")

    def _refuse(self, reason: str) -> NoReturn:
        raise NotProven(line=self._number, reason=reason) from None


_NAMES = {Manifest: "the head of an export", Line: "an event of an export", Ending: "the seal of an export"}


def _row(manifest: Manifest, event: AuditEvent, state: bytes, previous: bytes, hash_: bytes) -> StoredRow:
    row = stored_row(
        (manifest.dialogue_id, event.version, event.type, state, manifest.tenant_id, event.command_id, hash_,
         event.position, event.recorded_at)
    )  # fmt: skip
    vars(row)["prev_hash"] = previous
    return row


def _differing(told: AuditEvent, event: AuditEvent) -> Iterator[str]:
    ours, theirs = msgspec.to_builtins(told), msgspec.to_builtins(event)
    for name in _unlike(ours, theirs):
        both = ours.get(name), theirs.get(name)
        if name == "data" and isinstance(both[0], dict) and isinstance(both[1], dict):
            keys = list(_unlike(*both))
            fields = [key for key in keys if key != "erased"] or keys
            yield from (f"data.{one_line(key, LONGEST_NAME)}" for key in fields)
            if not keys:  # in another order
                yield name
        else:
            yield name


def _unlike(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for key in ours | theirs:
        if key not in ours or key not in theirs or _encode(ours[key]) != _encode(theirs[key]):
            yield key
