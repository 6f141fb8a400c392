"""An export proves itself with the public key alone; what is changed in it is refused by its line."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from bichat.audit import offline
from bichat.errors import NotFound
from bichat.errors.unusable import NotProven
from bichat.events.codec import State
from tests.audit.exports import Export, check, exported, trusted, verified
from tests.audit.sealed import END, OTHER, Log, sealed
from tests.examples import DIALOGUE, OTHER_TENANT, TENANT


@pytest.fixture(scope="module")
def log(module_database_url: str) -> Iterator[Log]:
    with sealed(module_database_url) as log:
        yield log


@pytest.fixture(scope="module")
def data(log: Log) -> bytes:
    return exported(log)


def test_an_export_is_whole_and_proves_what_it_shows(log: Log, data: bytes) -> None:
    found = check(log, data)
    assert (found.dialogue_id, found.tenant_id, found.events) == (DIALOGUE, TENANT, END)
    assert (found.texts, found.withheld, found.seal.number) == (7, 0, 3)
    shown = [line.event.data or {} for line in Export(data).lines]
    labels = [one["label"] for one in shown if "label" in one]
    assert labels == ["Sales", "A", "B", "C", "D"]
    assert found.head_hash == log.check().head.hex()


def test_another_tenants_dialogue_is_not_there(log: Log) -> None:
    with pytest.raises(NotFound):
        exported(log, tenant=OTHER_TENANT)
    with pytest.raises(NotFound):
        asyncio.run(verified(log, OTHER_TENANT))


def test_an_auditor_proves_a_dialogue_without_seeing_other_tenants(log: Log, data: bytes) -> None:
    found = asyncio.run(verified(log))
    assert found
    assert (found.findings, found.events, found.sealed) == ([], END, END)


def test_what_is_withheld_or_erased_is_counted_and_the_rest_proven(log: Log, data: bytes) -> None:
    export = Export(data)
    shown = export.lines[0].event.data or {}
    export.event(0, data={**shown, "label": None, "erased": True})
    export.proof(0, salts={})
    found = check(log, export.written())
    assert (found.texts, found.withheld) == (6, 1)


def text(e: Export) -> None:
    e.data(4, content="And who?")


def text_and_salt(e: Export) -> None:
    e.data(4, content="And who?")
    e.proof(4, salts={"content": bytes(16)})


def salt_moved_into_text(e: Export) -> None:
    salt = next(s for s in (line.proof.salts.get("label") for line in e.lines) if s)
    e.proof(0, salts={"label": salt[:15]})


def salt_without_text(e: Export) -> None:
    e.proof(4, salts={**e.lines[4].proof.salts, "role": bytes(16)})


def hidden_as_erased(e: Export) -> None:
    e.event(4, data={**(e.lines[4].event.data or {}), "content": None})
    e.proof(4, salts={})


def actor(e: Export) -> None:
    e.event(3, actor=replace(e.lines[3].event.actor, id="eve"))  # type: ignore[type-var]


def time(e: Export) -> None:
    e.event(3, at=e.lines[2].event.at)


def type_(e: Export) -> None:
    e.event(3, type="DialogueArchived")


def command(e: Export) -> None:
    e.event(3, command_id=e.lines[0].event.command_id)


def state(e: Export) -> None:
    stored = e.lines[3].proof.state
    e.proof(3, state=stored.replace(b'"anna"', b'"emma"'))
    e.event(3, actor=replace(e.lines[3].event.actor, id="emma"))  # type: ignore[type-var]


def state_and_hashes(e: Export) -> None:
    state(e)
    e.hash_anew()


def sealed_by_another(e: Export) -> None:
    state(e)
    e.seal_anew(Ed25519PrivateKey.generate())


def sealed_in_the_name_of_the_key(e: Export) -> None:
    state(e)
    right = e.ending.seal.public_key
    e.seal_anew(Ed25519PrivateKey.generate())
    e.ending = replace(e.ending, seal=replace(e.ending.seal, public_key=right))


def commitment(e: Export) -> None:
    """The text, its salt and the commitment are made anew, and all hashes."""
    salt, said = bytes(16), "And who?"
    stored = msgspec.json.decode(e.lines[4].proof.state, type=State)
    sealed_text = stored.data["content"]
    sealed_text[2] = base64.b64encode(hashlib.sha256(salt + said.encode()).digest()).decode()
    e.proof(4, state=msgspec.json.encode(stored), salts={"content": salt})
    e.data(4, content=said)
    e.hash_anew()


def removed(e: Export) -> None:
    del e.lines[3]


def removed_and_told(e: Export) -> None:
    del e.lines[3]
    e.manifest = replace(e.manifest, events=len(e.lines))
    for number in range(3, len(e.lines)):
        e.event(number, version=number + 1)
    e.hash_anew()


def cut_off_at_the_end(e: Export) -> None:
    del e.lines[-1]
    e.manifest = replace(e.manifest, events=len(e.lines))


def twice(e: Export) -> None:
    e.lines.insert(3, e.lines[3])


def moved(e: Export) -> None:
    e.lines[3], e.lines[4] = e.lines[4], e.lines[3]


def another_tenant(e: Export) -> None:
    e.manifest = replace(e.manifest, tenant_id=OTHER_TENANT)


def another_dialogue(e: Export) -> None:
    e.manifest = replace(e.manifest, dialogue_id=OTHER)
    for number in range(len(e.lines)):
        e.event(number, stream_id=OTHER, dialogue_id=OTHER)
    e.hash_anew()


def none(e: Export) -> None:
    e.lines, e.manifest = [], replace(e.manifest, events=0)


def newer_format(e: Export) -> None:
    e.manifest = replace(e.manifest, version=2)


def seal_time(e: Export) -> None:
    e.ending = replace(e.ending, seal=replace(e.ending.seal, at=e.manifest.exported_at))


def path_(e: Export) -> None:
    e.ending = replace(e.ending, path=replace(e.ending.path, hashes=[*e.ending.path.hashes, bytes(32)]))


def index(e: Export) -> None:
    e.ending = replace(e.ending, path=replace(e.ending.path, index=e.ending.path.index ^ 1))


SHOWS, HASH, UNDER = "it shows what was not stored", "does not give its hash", "are not under this seal"
FORGERIES: list[tuple[Callable[[Export], None], int, str]] = [
    (text, 6, f"{SHOWS}: data.content"), (text_and_salt, 6, f"{SHOWS}: data.content"),
    (salt_moved_into_text, 2, f"{SHOWS}: data.label"), (salt_without_text, 6, "salts"),
    (hidden_as_erased, 6, f"{SHOWS}: data.erased"), (actor, 5, f"{SHOWS}: actor"), (time, 5, f"{SHOWS}: at"),
    (type_, 5, HASH), (command, 5, HASH), (state, 5, HASH), (state_and_hashes, 9, UNDER),
    (sealed_by_another, 9, "by another key"), (sealed_in_the_name_of_the_key, 9, "signature is wrong"),
    (commitment, 9, UNDER), (removed, 5, "it is version 5, and version 4 is due"),
    (removed_and_told, 8, UNDER), (cut_off_at_the_end, 8, UNDER),
    (twice, 6, "it is version 4, and version 5 is due"), (moved, 5, "version 4 is due"),
    (another_tenant, 2, HASH), (another_dialogue, 9, UNDER), (none, 1, "there are no events"),
    (newer_format, 1, "version 2 of the format"), (seal_time, 9, "signature is wrong"), (path_, 9, UNDER),
    (index, 9, UNDER),
]  # fmt: skip


@pytest.mark.parametrize(("forge", "line", "reason"), FORGERIES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_forged_export_is_refused_by_its_first_bad_line(
    log: Log, data: bytes, forge: Callable[[Export], None], line: int, reason: str
) -> None:
    export = Export(data)
    forge(export)
    assert export.written() != data
    with pytest.raises(NotProven) as refused:
        check(log, export.written())
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"Line {line} proves nothing: "), refused.value


DEEP = b'{"event":' + b"[" * 200_000
JUNK: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "nothing": (lambda d: b"", 1, "the file ends here"),
    "binary": (lambda d: b"\xff\x00\n", 1, "it is not the head of an export"),
    "no lines": (lambda d: d[:40], 1, "the file ends in the middle of it"),
    "cut off in a line": (lambda d: d[: len(d) // 2], 5, "the file ends in the middle of it"),
    "cut off after a line": (lambda d: d[: d.rindex(b"\n", 0, -1) + 1], 9, "the file ends here"),
    "more after the end": (lambda d: d + b"{}\n", 10, "there is more after the seal"),
    "an empty line": (lambda d: d.replace(b"\n", b"\n\n", 1), 2, "it is not an event"),
    "other line ends": (lambda d: d.replace(b"\n", b"\r\n"), 1, "not written as bichat writes it"),
    "spaces": (lambda d: d.replace(b'{"event":', b'{ "event":', 1), 2, "not written as bichat"),
    "twice the same field": (
        lambda d: d.replace(b'"data":{', b'"data":{"user_id":"eve","label":"x"},"data":{', 1), 2,
        "not written as bichat"),
    "twice the same field inside": (
        lambda d: d.replace(b'"user_id":"anna"', b'"user_id":"eve","user_id":"anna"', 1), 2,
        "not written as bichat"),
    "unknown fields": (lambda d: d.replace(b'"version":1,', b'"version":1,"proven":true,', 1), 1,
                       "it is not"),
    "unknown fields of an event": (
        lambda d: d.replace(b'{"event":{', b'{"event":{"note":"by the chairman",', 1), 2,
        "not written as bichat"),
    "deep": (lambda d: d.replace(b'{"event":', DEEP, 1), 2, "it is not an event"),
    "wrong types": (lambda d: d.replace(b'"position":', b'"position":"x","p":', 1), 2, "it is not an event"),
    "huge numbers": (lambda d: d.replace(b'"events":7', b'"events":' + b"9" * 400, 1), 9, "it is not"),
    "endless numbers": (lambda d: d.replace(b'"events":7', b'"events":' + b"9" * 9000, 1), 1, "it is not"),
    "a huge seal": (lambda d: d.replace(b'"streams":', b'"streams":' + b"9" * 40, 1), 9,
                    "signature is wrong"),
    "a seal of no time zone": (lambda d: d.replace(b'Z","root"', b'","root"'), 9,
                               "signature is wrong"),
    "a long type": (lambda d: d.replace(b'"type":"', b'"type":"' + b"x" * 70_000, 1), 2, "its type is none"),
    "escapes": (lambda d: d.replace(b'"anna"', b'"\\u0061nna"', 1), 2, "not written as bichat"),
}  # fmt: skip


@pytest.mark.parametrize("kind", JUNK)
def test_junk_is_refused_in_one_line(log: Log, data: bytes, kind: str) -> None:
    change, line, reason = JUNK[kind]
    changed = change(data)
    assert changed != data
    with pytest.raises(NotProven) as refused:
        check(log, changed)
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"Line {line} proves nothing: "), refused.value
    assert "\n" not in str(refused.value)


def test_a_line_without_an_end_is_not_read_to_its_end(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b" " * len(buffer)
            return len(buffer)

    monkeypatch.setattr(offline, "LONGEST", 1_000_000)
    with pytest.raises(NotProven, match="it is too long"):
        offline.check(io.BufferedReader(Endless()), trusted(log))
