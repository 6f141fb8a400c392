"""The stored form of every kind of fact is final: these bytes never change."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from bichat.errors import EventUnreadable
from bichat.errors.unusable import EventTooNew
from bichat.events import codec, envelope
from bichat.events.codec import Draft, EventMapper, StoredRow
from bichat.events.envelope import Actor, Cause, Fact, Metadata
from bichat.events.seal import GENESIS, PersonKey, Place, Sealed, chain
from tests.examples import COMMAND, DIALOGUE, FACTS, NOON, QUESTION, TENANT

KEY = PersonKey(QUESTION, bytes(range(32)))
BY = Metadata(
    tenant_id=TENANT, actor=Actor("user", "anna"), command_id=COMMAND, cause=Cause(DIALOGUE, 1), trace="00-ab"
)
S = '[1,"01a00000-0000-7000-8000-00000000000a","…","…"]'
Q = '"message_id":"01a00000-0000-7000-8000-00000000000a"'
H = '"hold_id":"01a00000-0000-7000-8000-00000000000e"'
E = '"erasure_id":"01a00000-0000-7000-8000-00000000000f"'
USAGE = '"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17}'
SETTINGS = '{"model":"small","max_tokens":9,"temperature":0.5,"top_p":0.9,"schedule":"off_peak"}'

PINNED = {
    "started": ("DialogueStarted", f'{{"user_id":"anna","label":{S}}}'),
    "asked": ("MessageAdded", f'{{{Q},"role":"user","content":{S},"name":{S},"asks":{{}}}}'),
    "asked with settings": ("MessageAdded", f'{{{Q},"role":"system","content":{S},"asks":{SETTINGS}}}'),
    "answered": (
        "MessageAdded",
        f'{{"message_id":"01a00000-0000-7000-8000-00000000000b","role":"assistant","content":{S},'
        f'"answers":{{{Q},"attempt":1,"model":"small","finish_reason":"stop",{USAGE}}}}}',
    ),
    "renamed": ("DialogueRenamed", f'{{"label":{S}}}'),
    "labelled": ("DialogueLabelled", f'{{"label":{S},"model":"small",{USAGE}}}'),
    "function called": (
        "FunctionCalled",
        f'{{"id":"01a00000-0000-7000-8000-000000000010",{Q},"attempt":1,"round":1,"call_id":"call_1",'
        f'"name":"query","arguments":{S},"said":{S}}}',
    ),
    "function returned": (
        "FunctionReturned",
        f'{{"id":"01a00000-0000-7000-8000-000000000011",{Q},"attempt":1,"call_id":"call_1","name":"query",'
        f'"result":{S},"failed":true}}',
    ),
    "prompt changed": ("PromptChanged", '{"name":"system","template":"Be brief."}'),
    "prompt removed": ("PromptRemoved", '{"name":"system"}'),
    "function described": ("FunctionDescribed", f'{{"name":"query","digest":"{"cd" * 32}","schema":"{{}}"}}'),
    "deleted": ("DialogueDeleted", "{}"),
    "restored": ("DialogueRestored", "{}"),
    "archived": ("DialogueArchived", "{}"),
    "unarchived": ("DialogueUnarchived", "{}"),
    "reply started": (
        "ReplyStarted",
        f'{{{Q},"attempt":1,"model":"small","temperature":0.5,'
        '"shown":{"as_of":2,"messages":1,"prompt":"built-in","prompt_version":1},'
        f'"request_digest":"{"ab" * 32}"}}',
    ),
    "reply failed": (
        "ReplyFailed",
        f'{{{Q},"attempt":1,"code":"model_cut_off","detail":{S},"partial":{S},{USAGE},"final":false}}',
    ),
    "cancel requested": ("ReplyCancelRequested", f"{{{Q}}}"),
    "cancelled": ("ReplyCancelled", f'{{{Q},"attempt":1,"partial":{S},{USAGE}}}'),
    "cancelled while it ran": ("ReplyCancelled", f'{{{Q},"attempt":1,"account_due":true}}'),
    "accounted": ("ReplyAccounted", f'{{{Q},"attempt":1,"partial":{S},{USAGE}}}'),
    "requeued": ("ReplyRequeued", f"{{{Q}}}"),
    "erased": ("TextErased", "{}"),
    "hold placed": ("HoldPlaced", f'{{"user_id":"anna",{H},"reason":{S}}}'),
    "hold placed on a dialogue": (
        "HoldPlaced",
        f'{{"user_id":"anna",{H},"dialogue_id":"01a00000-0000-7000-8000-00000000000d"}}',
    ),
    "hold released": ("HoldReleased", f'{{"user_id":"anna",{H}}}'),
    "erasure ordered": ("ErasureOrdered", f'{{"user_id":"anna",{E}}}'),
    "person erased": ("PersonErased", f'{{"user_id":"anna",{E},"dialogues":2,"keys":1}}'),
    "audit read": (
        "AuditRead",
        '{"what":"dialogue","dialogue_id":"01a00000-0000-7000-8000-00000000000d","asked":{"version":"7"}}',
    ),
    "audit's feed read": ("AuditRead", '{"what":"feed"}'),
}


def mapper(key: PersonKey | None = KEY) -> EventMapper:
    return EventMapper(lambda key_id: key)


def stored(fact: Fact, by: Metadata = BY) -> StoredRow:
    draft = Draft(stream_id=DIALOGUE, version=2, at=NOON, by=by, fact=fact, key=KEY, prev_hash=GENESIS)
    return mapper().to_stored_event(draft)


def without_boxes(state: bytes) -> str:
    """The stored JSON with what is random in it, commitment and box, replaced."""
    decoded = msgspec.json.decode(state)
    for name, value in decoded["data"].items():
        if isinstance(value, list):
            decoded["data"][name] = [*value[:2], "…", "…"]
    return msgspec.json.encode(decoded).decode()


def test_every_kind_of_fact_is_pinned() -> None:
    assert {topic for topic, _ in PINNED.values()} == {name for name, _ in envelope.kinds()}


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_is_stored_in_its_final_form(name: str) -> None:
    row = stored(FACTS[name])
    topic, data = PINNED[name]
    assert row.topic == topic
    assert without_boxes(row.state) == (
        f'{{"v":1,"at":"2026-11-22T12:00:00.123456Z","by":["user","anna"],"data":{data},'
        '"cause":["01a00000-0000-7000-8000-00000000000d",1],"trace":"00-ab"}'
    )


@pytest.mark.parametrize("name", FACTS)
def test_what_was_stored_is_what_is_read(name: str) -> None:
    event = mapper().to_domain_event(stored(FACTS[name]))
    assert event.fact == FACTS[name]
    assert (event.at, event.actor, event.cause, event.trace) == (NOON, BY.actor, BY.cause, BY.trace)
    assert (event.tenant_id, event.stream_id, event.version, event.command_id) == (
        TENANT,
        DIALOGUE,
        2,
        COMMAND,
    )


@pytest.mark.parametrize("name", FACTS)
def test_without_the_key_private_fields_are_none_and_the_rest_is_there(name: str) -> None:
    row, fact = stored(FACTS[name]), FACTS[name]
    private = {n for n in envelope.kind(row.topic).private if getattr(fact, n)}
    for event in (mapper(None).to_domain_event(row), mapper().to_domain_event(row, blind=True)):
        for field in fact.__struct_fields__:
            expected = None if field in private else getattr(fact, field)
            assert getattr(event.fact, field) == expected


def test_no_private_text_is_in_the_stored_bytes() -> None:
    for name, fact in FACTS.items():
        row = stored(fact)
        for field in envelope.kind(row.topic).private:
            text = getattr(fact, field)
            assert not text or f'"{text}"'.encode() not in row.state, name


def test_the_hash_is_sha256_over_a_pinned_layout() -> None:
    place = Place(TENANT, DIALOGUE, 7, "DialogueDeleted")
    expected = hashlib.sha256(
        b"bichat.event.1" + bytes([9]) * 32 + TENANT.bytes + DIALOGUE.bytes + (7).to_bytes(8, "big")
        + (15).to_bytes(2, "big") + b"DialogueDeleted" + COMMAND.bytes + b'{"v":1}'
    )  # fmt: skip
    assert chain(bytes([9]) * 32, place, COMMAND, b'{"v":1}') == expected.digest()


def test_a_sealed_field_opens_only_in_its_place() -> None:
    row = stored(FACTS["asked"])
    for moved in (
        {"originator_version": 3},
        {"tenant_id": QUESTION},
        {"originator_id": QUESTION},
        {"topic": "DialogueRenamed", "state": row.state.replace(b'"content"', b'"label"')},
    ):
        other = StoredRow(**{**vars(row), **moved})
        with pytest.raises(EventUnreadable, match="changed or moved"):
            mapper().to_domain_event(other)


def test_a_stored_box_that_was_changed_does_not_open() -> None:
    row = stored(FACTS["renamed"])
    sealed = msgspec.json.decode(row.state)["data"]["label"]
    box = ("B" if sealed[3][20] == "A" else "A").join([sealed[3][:20], sealed[3][21:]])
    other = StoredRow(**{**vars(row), "state": row.state.replace(sealed[3].encode(), box.encode())})
    with pytest.raises(EventUnreadable):
        mapper().to_domain_event(other)


def test_what_was_sealed_and_digested_once_is_understood_for_ever() -> None:
    """Literals: another derivation, place or layout would make every log that exists unreadable."""
    sealed = msgspec.json.decode(
        b'[1,"01a00000-0000-7000-8000-00000000000a","WcyCaYybKb2xIWx8xCGWje2O/I6JuZGKvmDZnVOLLc0=",'
        b'"Sg9DfKzC9By3bwNtkm2sUpWx+7P5HJ3zywX3oSmimnk3+utLftWIpTeXJSbTZME7eHQGD6tyna8="]',
        type=Sealed,
    )
    assert KEY.open(sealed, Place(TENANT, DIALOGUE, 2, "DialogueRenamed").of("label")) == "Sales in May"
    digest = "4375b7cf69bae0e60c187a29ae4a29baa76068bb1d7dbe61e17eebcd1bc10b86"
    assert KEY.digest("request", b"what").hex() == digest


def test_the_commitment_is_the_hash_of_salt_and_text() -> None:
    sealed = KEY.seal("How much?", b"place")
    salted = KEY._cipher.decrypt(sealed.box[:12], sealed.box[12:], b"place")
    assert sealed.commitment == hashlib.sha256(salted).digest()
    assert salted[16:] == b"How much?"
    assert KEY.seal("How much?", b"place").commitment != sealed.commitment


@pytest.mark.parametrize(
    ("topic", "state"),
    [("SomethingNew", b'{"v":1'), ("DialogueDeleted", b'{"v":2')],
)
def test_an_event_newer_than_the_code_says_so(topic: str, state: bytes) -> None:
    row = stored(FACTS["deleted"])
    newer = StoredRow(**{**vars(row), "topic": topic, "state": row.state.replace(b'{"v":1', state)})
    with pytest.raises(EventTooNew, match="newer than this code"):
        mapper().to_domain_event(newer)


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b"nonsense", b'{"v":1,"at":"x","by":["user","a"],"data":{}}']
    + [
        b'{"v":1,"at":"2026-11-22T12:00:00Z","by":["user","a"],"data":{"content":%b}}' % content
        for content in (b"[]", b"[1]", b"[1,5]", b'[1,"?"]', b"[1,[]]", b"7")
    ],
)
def test_a_row_that_makes_no_sense_is_unreadable_and_nothing_else(state: bytes) -> None:
    row = StoredRow(**{**vars(stored(FACTS["asked"])), "state": state})
    with pytest.raises(EventUnreadable):
        mapper().to_domain_event(row)
    assert codec.key_ids(row) == set()


def test_an_older_stored_form_is_lifted_step_by_step() -> None:
    steps = {1: lambda data: {"colour": data["color"]}, 2: lambda data: {**data, "shade": 5}}
    try:

        @envelope.fact(upcasters=steps)
        class WallPainted(Fact, frozen=True, kw_only=True):
            version = 3
            colour: str
            shade: int

        assert envelope.from_data("WallPainted", 1, {"color": "red"}) == WallPainted(colour="red", shade=5)
        assert envelope.from_data("WallPainted", 2, {"colour": "red"}) == WallPainted(colour="red", shade=5)
        with pytest.raises(EventTooNew):
            envelope.from_data("WallPainted", 4, {})
    finally:
        envelope._catalog.pop("WallPainted", None)


def test_a_kind_without_all_its_upcasters_is_not_accepted() -> None:
    class Gap(Fact, frozen=True, kw_only=True):
        version = 3

    with pytest.raises(TypeError, match="no upcaster"):
        envelope.fact(upcasters={1: dict})(Gap)
