"""Every chat function, called on behalf of a stranger for what is another's; its owner is given it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from bench.stack import TENANT, Stack
from bichat.events.dialogue import FunctionReturned
from bichat.workers.toolbox import found
from chaos.asking import ask, client, end, facts, log
from chaos.business import OTHER, SECRET
from chaos.provider import Provider
from chaos.verdict import Verdict

AIMED: dict[str, dict[str, Any]] = {
    "similar_messages": {"text": f"How many {SECRET}s are there?", "top_k": 20},
    "query": {"sql": "select note from invoices order by number desc limit 3"},
    "describe_table": {"table": f'"of_{OTHER}".invoices'},
    "convert_units": {"value": 1, "from_unit": "km", "to_unit": "m"},
}
"""What each is given; those that are given nothing have no aim to be given."""


def judge(
    bichat: Stack, model: Provider, verdict: Verdict, *, owner: str, stranger: str, neighbour: str
) -> None:
    """Nobody else's model gets what is the owner's."""
    names = [function.name for function in found()]
    told = {
        user: called(bichat, model, user, tenant, names)
        for user, tenant in ((owner, OTHER), (stranger, TENANT), (neighbour, OTHER))
    }
    for name in names:
        verdict.check(name in told[stranger], f"{name} was not called: {told[stranger]}")
        verdict.check(SECRET not in told[stranger].get(name, ""), f"{name} told {told[stranger].get(name)}")
    similar = told[neighbour].get("similar_messages", SECRET)
    verdict.check(SECRET not in similar, f"similar_messages told a neighbour {similar}")
    for name in ("similar_messages", "query"):  # else there was nothing to be had
        verdict.check(SECRET in told[owner].get(name, ""), f"{name} told its owner {told[owner].get(name)}")
    verdict.counts["functions"] = len(names)


def called(bichat: Stack, model: Provider, user: str, tenant: UUID, names: list[str]) -> dict[str, str]:
    """What each function returned to the model of this person."""
    calls = [{"name": name, "arguments": AIMED.get(name, {})} for name in names]
    model.script(
        {"type": "reply", "tool_calls": calls, "match": {"model": user}},
        {"type": "reply", "text": "So.", "match": {"model": user}},
    )
    with client(bichat, user, tenant=tenant) as person, log(bichat.database_url) as ledger:
        asked = ask(person, "What is there?", model=user)
        end(person, asked)
        returned = [fact for fact in facts(ledger, asked) if isinstance(fact, FunctionReturned)]
    return {fact.name: fact.result or "" for fact in returned}
