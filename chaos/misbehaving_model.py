"""R9: the provider misbehaves in each way that llmock knows, each to a person of its own."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from itertools import pairwise
from operator import add
from typing import Any

import httpx
import msgspec
from uuid_utils.compat import uuid7

from bench.stack import Stack, stack
from bichat.events.dialogue import MessageAdded, ReplyFailed, ReplyStarted, Usage
from bichat.events.envelope import Fact
from bichat.events.ledger import Ledger
from chaos.asking import ENDED, ask, client, end, facts, log, told_by_stream
from chaos.misbehaviours import CASES, SILENCE, WINDOW, WORDS, Case, nobody_forgotten
from chaos.provider import KEY, Provider, provider
from chaos.verdict import Verdict
from chaos.world import World

DONE = "the provider misbehaves in each way that llmock knows"

QUOTAS = {"--rpm 60": "hi", "--tpm 12000": "sales " * 100}
"""Of a minute, and what uses them up to less than a question needs."""


def run(world: World, verdict: Verdict) -> None:
    nobody_forgotten(verdict)
    database, cases = world.database(), [case for case in CASES if not (world.short and case.long)]
    world.rng.shuffle(cases)
    with (
        provider("--context-window", str(WINDOW), "--stream-chunk-delay-ms", "5") as model,
        stack(database, world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY,
              BICHAT_FUNCTIONS="on") as bichat,
    ):  # fmt: skip
        for case in cases:
            model.script(*(told(case, behavior) for behavior in case.behaves), answers(case))
        bichat.up()
        with log(database) as ledger, ThreadPoolExecutor(len(cases)) as people:
            for heard in people.map(partial(tried, world, bichat, ledger, model), cases):
                for kept, promise in heard:
                    verdict.check(kept, promise)
            verdict.counts["ways"] = len(cases)
            if not world.short:
                quotas(world, bichat, verdict)
        verdict.counts["calls to the model"] = len(model.asked())
        blame(model, verdict)


def told(case: Case, behavior: dict[str, Any]) -> dict[str, Any]:
    return {**behavior, "match": {"model": case.model}}


def answers(case: Case) -> dict[str, Any]:
    """What it says as soon as it behaves."""
    return told(case, {"type": "reply", "text": WORDS, "times": None})


Heard = list[tuple[bool, str]]


def tried(world: World, bichat: Stack, ledger: Ledger, model: Provider, case: Case) -> Heard:
    """Asks, waits for the end, and judges it."""
    patience = SILENCE + 20 if case.long else 25
    with client(bichat, case.model) as person:
        asked = ask(person, case.text, model=case.model)
        question = end(person, asked, patience)
        happened = facts(ledger, asked)
        world.history.tell(case.name, question["status"], facts=[type(fact).__name__ for fact in happened])
        head = ledger.read(asked.dialogue_id)[-1].position
        spent = person.get(f"/v1/usage?min_position={head}").json()["data"]
        shown = told_by_stream(person, asked) if question["status"] in ENDED else "nothing yet"
    requests = [one for one in model.asked() if one["model"] == case.model]
    return [
        (kept, f"{case.name}: {promise}")
        for kept, promise in (
            *ends(case, question["status"], happened, shown),
            *paid(happened, spent, requests, model),
            *patient(case, requests),
        )
    ]


def ends(case: Case, status: str, happened: list[Fact], shown: str) -> Heard:
    """Each attempt ended as it should have; the question once, and plainly."""
    failures = [fact for fact in happened if isinstance(fact, ReplyFailed)]
    replies = [fact for fact in happened if isinstance(fact, MessageAdded) and fact.answers]
    starts = sum(isinstance(fact, ReplyStarted) for fact in happened)
    ended = [*("" for _ in replies), *(fact.code for fact in reversed(failures))]
    final = [fact for fact in failures if fact.final]
    due = "failed" if case.attempts[0] else "answered"
    heard = [
        (status == due, f"is {status}, not {due}"),
        (ended == case.attempts, f"its attempts ended with {ended}, not {case.attempts}"),
        (starts == len(ended), f"{starts} attempts started, {len(ended)} ended"),
        (len(replies) + len(final) == 1, f"{len(replies)} answers, {len(final)} final failures"),
        (shown.count("event: reply.completed") + shown.count("event: reply.failed") == 1,
         f"the stream tells its end not once: {shown[-300:]!r}"),
    ]  # fmt: skip
    heard += [(plain(fact.detail), f"{fact.code} says {fact.detail!r}") for fact in failures]
    heard += [
        (word in (fact.detail or ""), f"no {word!r} in {fact.detail!r}")
        for fact in final
        for word in case.told
    ]
    return heard


def plain(reason: str | None) -> bool:
    """A sentence for a person: what it was, and nothing of whom it was asked with."""
    secret = re.compile(rf"{KEY}|Traceback|127\.0\.0\.1|Error\(|\n")
    return bool(reason) and len(reason or "") < 400 and not secret.search(reason or "")


def paid(
    happened: list[Fact], spent: list[dict[str, Any]], requests: list[dict[str, Any]], model: Provider
) -> Heard:
    """The read model counts every attempt, with what the provider told where it did."""
    ended = [fact.usage for fact in happened if isinstance(fact, ReplyFailed)]
    answers = [fact.answers.usage for fact in happened if isinstance(fact, MessageAdded) and fact.answers]
    logged = reduce(add, (*ended, *answers), Usage())
    [used] = spent or [{}]
    heard = [
        (used.get("calls") == len(ended) + len(answers), f"usage counts {used.get('calls')} attempts"),
        (used.get("total_tokens") == logged.total_tokens, f"usage {used} is not that of the log, {logged}"),
    ]
    reached = [one for one in requests if one["status"] == 200]
    if reached:
        heard.append((logged.prompt_tokens > 0, "the model was reached, and nothing was counted"))
    if answers and len(reached) - len(ended) <= 1 and not requests[-1]["fault"]:
        said = counted(model, requests[-1])
        heard.append((answers[0] == said, f"the answer cost {answers[0]}; the provider told {said}"))
    return heard


def counted(model: Provider, request: dict[str, Any]) -> Usage:
    """What the provider tells of this request: it is asked the same once more."""
    for line in reversed(model.ask(request["body"]).text.splitlines()):
        usage = line.startswith("data: {") and msgspec.json.decode(line[6:]).get("usage")
        if usage:
            return msgspec.convert(usage, Usage)
    return Usage()


def patient(case: Case, requests: list[dict[str, Any]]) -> Heard:
    """Nobody is asked again sooner than they wanted."""
    waits = [after["started_at"] - before["ended_at"] for before, after in pairwise(requests)]
    return [(wait >= case.gap, f"asked again after {wait:.2f} s") for wait in waits if case.gap]


def quotas(world: World, bichat: Stack, verdict: Verdict) -> None:
    """A provider whose requests, or tokens, of this minute are spent is asked when it has some again."""
    bichat.kill("worker 0")
    for name, text in QUOTAS.items():
        with (
            provider(*name.split()) as scarce,
            client(bichat, name) as person,
            ThreadPoolExecutor(1) as others,
        ):
            scarce.script({"type": "reply", "text": WORDS, "times": None})  # and calls nothing
            bichat.start(name, "worker", **scarce.settings)
            end(person, ask(person, "Are you there?", model="scarce"))
            while another(scarce, text).is_success:
                pass
            spent, status = others.submit(spend, scarce, text), ""
            while not spent.done():  # what comes back is whose comes first: now and then that is bichat
                status = end(person, ask(person, "How did the sales go?", model="scarce"))["status"]
                verdict.check(status == "answered", f"with the quota {name} spent: {status}")
            world.history.tell(name, status, refused=spent.result())
            verdict.check(spent.result() > 0, f"the quota {name} was not spent: nothing was tried")
            blame(scarce, verdict)
            bichat.kill(name)


def another(scarce: Provider, text: str) -> httpx.Response:
    """Somebody else's request, each of its own: llmock takes what is repeated for a retry."""
    said = [{"role": "user", "content": f"{text} {uuid7()}"}]
    return scarce.ask({"model": "others", "messages": said})


def spend(scarce: Provider, text: str) -> int:
    """Others use up what comes back until bichat has been refused, or for 15 s; how often it was."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        another(scarce, text)
        asked = scarce.asked()
        refused: int = sum(one["status"] == 429 and one["body"]["model"] == "scarce" for one in asked)
        if refused:
            return refused
    return 0


def blame(model: Provider, verdict: Verdict) -> None:
    """What llmock holds against its client, but for giving up on what misbehaves for ever.

    Its warnings depend on when it sees that a connection was closed; how attempts end is looked at above.
    """
    hopeless = {case.model for case in CASES for behavior in case.behaves if behavior.get("times", 1) is None}
    models = {one["seq"]: one["model"] for one in model.asked()}
    for finding in model.findings():
        given_up = {models[request] for request in finding["requests"]} <= hopeless
        verdict.check(finding["severity"] == "warning" or given_up, f"llmock: {finding}")
