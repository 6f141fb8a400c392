"""R8: a foreign tenant, a foreign user, a missing role, an expired token, at every route and function."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from bench.stack import TENANT, Stack, stack
from chaos import foreign_calls
from chaos.asking import ask, ask_more, client, end
from chaos.business import OTHER, SECRET, business
from chaos.provider import KEY, provider
from chaos.routes import ROLES, Route, routes
from chaos.statements import Statements
from chaos.told_apart import Asking, Pair
from chaos.verdict import Verdict
from chaos.world import World

DONE = "a foreign tenant, user, role or an old token at every route, stream and function"

OWNER, STRANGER, NEIGHBOUR = "anna", "mallory", "ned"
"""Of the other tenant, of ours, and of the owner's own tenant."""


def run(world: World, verdict: Verdict) -> None:
    with ExitStack() as opened:
        _, url = opened.enter_context(business(world))
        model = opened.enter_context(provider())
        bichat = opened.enter_context(
            stack(world.database(), world.redis_url, model.url, world.scratch / "logs", OPENAI_API_KEY=KEY,
                  BICHAT_FUNCTIONS="on", ANALYTICS_DATABASE_URL=url)
        )  # fmt: skip
        model.script(
            {"type": "fail", "status": 400, "match": {"model": "broken"}, "times": None},
            {"type": "reply", "text": f"{SECRET}s are sold out.", "match": {"model": "plain"}, "times": None},
        )
        bichat.up()
        theirs = owned(bichat)
        before = shown(bichat, theirs)
        with client(bichat, STRANGER) as anybody:
            known = routes(anybody)
        world.rng.shuffle(known)
        verdict.counts["routes"] = len({(route.method, route.path) for route in known})
        lists(bichat, known, verdict)
        statements = Statements(bichat.database_url, world.scratch.parent / "data" / "postgres.log")
        refused(Asking(bichat, theirs, statements), known, bichat, verdict)
        foreign_calls.judge(bichat, model, verdict, owner=OWNER, stranger=STRANGER, neighbour=NEIGHBOUR)
        verdict.check(shown(bichat, theirs) == before, "what is the owner's is not what it was")
        silence(bichat, verdict)


def owned(bichat: Stack) -> dict[str, str]:
    """A dialogue with an answer and a failure, a prompt and a hold, all with a secret in them; their ids."""
    with client(bichat, OWNER, tenant=OTHER, roles=[*ROLES]) as owner:
        asked = ask(owner, f"How many {SECRET}s are there?", model="plain", label=SECRET)
        end(owner, asked)
        end(owner, ask_more(owner, asked, f"And {SECRET} cases?", model="broken"))
        owner.put(f"/v1/prompts/{SECRET.lower()}", json={"template": SECRET}).raise_for_status()
        hold = owner.post("/v1/ops/holds", json={"user_id": OWNER, "reason": SECRET}).raise_for_status()
    return {
        "dialogue_id": str(asked.dialogue_id), "message_id": str(asked.message_id), "user_id": OWNER,
        "number": "1", "name": SECRET.lower(), "hold_id": hold.json()["hold_id"],
    }  # fmt: skip


def shown(bichat: Stack, theirs: dict[str, str]) -> list[Any]:
    """All that strangers might have changed."""
    with client(bichat, OWNER, tenant=OTHER, roles=[*ROLES]) as owner:
        paths = ("/v1/dialogues/{dialogue_id}", "/v1/prompts/{name}", "/v1/ops/holds", "/v1/ops/erasures")
        return [owner.get(path.format_map(theirs)).raise_for_status().json() for path in paths]


def refused(asking: Asking, known: list[Route], bichat: Stack, verdict: Verdict) -> None:
    """Whoever may not is told so, and nothing else: neither by the answer nor by the log."""
    for route in known:
        if route.protected:
            unknown(asking, route, bichat, verdict)
            unentitled(asking, route, bichat, verdict)
        if route.names:
            foreign(asking, route, bichat, verdict)
            verdict.counts["about what is another's"] += 1
    verdict.counts["requests"] = 2 * len(asking.pairs)
    for pair, lines in asking.told_apart():
        verdict.check(False, f"the log tells {pair.route} of {pair.who} apart: {lines}")
    verdict.check(
        any(pair.statements[0] for pair in asking.pairs), "what is asked of the database is not seen"
    )
    verdict.check(len(asking.pairs) > 100, "hardly anything was asked")


def unknown(asking: Asking, route: Route, bichat: Stack, verdict: Verdict) -> None:
    """Without a good token nobody learns more than that."""
    expired = bichat.token(OWNER, OTHER, roles=[*ROLES], exp=int(time.time()) - 1)
    for what, token in (("an expired token", expired), ("no token", ""), ("a forged one", f"{expired}x")):
        pair = asking.pair(route, what, {"Authorization": f"Bearer {token}" if token else ""})
        verdict.check(pair.status == 401 and pair.alike, f"not 401: {pair}")


def unentitled(asking: Asking, route: Route, bichat: Stack, verdict: Verdict) -> None:
    """Who lacks the role is told so, whatever there is."""
    for role in ("nobody", *ROLES):
        if role not in route.roles:
            pair = asking.pair(route, f"the {role}", bichat.headers(OWNER, OTHER, roles=[role]))
            verdict.check(pair.status == 403 and pair.alike, f"not 403: {pair}")


def foreign(asking: Asking, route: Route, bichat: Stack, verdict: Verdict) -> None:
    """What is another's is not there."""
    neighbours = [(NEIGHBOUR, OTHER)] if route.roles == ("user",) else []
    for user, tenant in [(STRANGER, TENANT), *neighbours]:
        for accept in ("application/json", "text/event-stream"):
            headers = bichat.headers(user, tenant, roles=[*ROLES]) | {"Accept": accept}
            pair = asking.pair(route, user, headers)
            verdict.check(hidden(pair), f"not hidden: {pair}")


def hidden(pair: Pair) -> bool:
    """It is a 404 like any other; what is only named so, is made anew, and is one's own."""
    both = {answer.status for answer in pair.answers}
    if "_id}" in pair.route.path or "dialogue_id" in repr(pair.route.body):
        return both == {404} and pair.alike
    return both == {404} and pair.alike if pair.status >= 400 else both in ({200}, {201})


def lists(bichat: Stack, known: list[Route], verdict: Verdict) -> None:
    """What lists and searches shows a stranger nothing of the owner's."""
    for route in known:
        if "{" in route.path or (route.method != "get" and "search" not in route.path):
            continue
        for user, tenant, roles in ((STRANGER, TENANT, [*ROLES]), (NEIGHBOUR, OTHER, ["user"])):
            if tenant == OTHER and "prompts" in route.path:
                continue  # they are the tenant's
            with client(bichat, user, tenant=tenant, roles=roles) as stranger:
                method, path, body = route.request({})
                answer = stranger.request(method, path, json=body)
            shows = SECRET.lower() in answer.text.lower()
            verdict.check(not shows, f"{route} shows {user} {answer.text[:300]}")


def silence(bichat: Stack, verdict: Verdict) -> None:
    """No line of any process has what was written."""
    for path in sorted(bichat.logs.glob("*.log")):
        lines = [line for line in path.read_text().splitlines() if SECRET.lower() in line.lower()]
        verdict.check(not lines, f"{path.name}: {lines[:3]}")
