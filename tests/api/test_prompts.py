"""A tenant's prompts over HTTP: ops write them, everybody of the tenant reads and renders them."""

from __future__ import annotations

import threading
import time
from uuid import UUID, uuid4

import httpx
import pytest

from bichat.api import renderers
from bichat.prompts import BUILT_IN
from tests.api.conftest import Api


@pytest.fixture
def ines(api: Api, tenant: UUID) -> httpx.Client:
    """A person of the tenant, without a role but `user`."""
    return api.client("ines", tenant=str(tenant))


def put(client: httpx.Client, name: str, template: str, **headers: str) -> httpx.Response:
    return client.put(f"/v1/prompts/{name}", json={"template": template}, headers=headers)


def reason(told: httpx.Response, status: int = 400) -> tuple[str, str]:
    assert told.status_code == status, told.text
    [error] = told.json()["errors"]
    return error["field"], error["reason"]


def test_a_prompt_has_versions_and_each_its_author(olga: httpx.Client, ines: httpx.Client) -> None:
    first = put(olga, "weekly", "Week {{ week }}")
    assert first.status_code == 200
    assert {k: v for k, v in first.json().items() if k != "position"} == {"prompt": "weekly", "version": 1}
    assert put(olga, "weekly", "Week no. {{ week }}").json()["version"] == 2
    again = put(olga, "weekly", "Week no. {{ week }}")
    assert again.json()["version"] == 2, "the same text changes nothing"
    shown = ines.get("/v1/prompts/weekly", params={"min_version": 2}).json()
    assert (shown["template"], shown["version"], shown["author"]) == ("Week no. {{ week }}", 2, "olga")
    assert not shown["built_in"]
    assert [(one["version"], one["author"], one["removed"]) for one in shown["versions"]] == [
        (2, "olga", False), (1, "olga", False),
    ]  # fmt: skip
    assert shown["versions"][0]["changed_at"] >= shown["versions"][1]["changed_at"]
    assert ines.get("/v1/prompts/weekly?version=1").json()["template"] == "Week {{ week }}"


def test_what_was_just_written_is_read_and_rendered(olga: httpx.Client, ines: httpx.Client) -> None:
    for n in range(5):
        version = put(olga, "hello", f"{n}: {{{{ name }}}}").json()["version"]
        told = ines.post(f"/v1/prompts/hello/render?min_version={version}", json={"data": {"name": "Ines"}})
        assert told.json() == {"text": f"{n}: Ines", "version": version}


def test_the_list_is_the_tenants_own_page_by_page(api: Api, olga: httpx.Client, ines: httpx.Client) -> None:
    for name in ("b", "a", "c-1", "system"):
        position = put(olga, name, "x").json()["position"]
    olga.delete("/v1/prompts/b")
    page = ines.get("/v1/prompts", params={"limit": 2, "min_position": position + 1}).json()
    assert [one["name"] for one in page["data"]] == ["a", "c-1"]
    rest = ines.get("/v1/prompts", params={"limit": 2, "after": page["next"]}).json()
    assert ([one["name"] for one in rest["data"]], rest["next"]) == (["system"], None)
    with api.client("eve", tenant=str(uuid4()), roles=["user", "ops"]) as eve:
        assert eve.get("/v1/prompts").json() == {"data": [], "next": None}
        assert eve.get("/v1/prompts/a").status_code == 404
        assert eve.post("/v1/prompts/a/render", json={}).status_code == 404
        assert eve.delete("/v1/prompts/a").status_code == 404
        assert put(eve, "a", "mine").json()["version"] == 1
    assert ines.get("/v1/prompts/a").json()["template"] == "x"


def test_the_built_in_prompt_is_there_until_the_tenant_writes_its_own(
    olga: httpx.Client, ines: httpx.Client
) -> None:
    shown = ines.get("/v1/prompts/system").json()
    assert (shown["template"], shown["version"], shown["built_in"]) == (BUILT_IN.text, 0, True)
    assert shown["versions"] == []
    assert reason(ines.get("/v1/prompts/system?min_version=1")) == (
        "min_version", "there is only version 0",
    )  # fmt: skip
    version = put(olga, "system", "Be {{ brief }}, and {% never mind.").json()["version"]
    shown = ines.get(f"/v1/prompts/system?min_version={version}").json()
    assert (shown["template"], shown["built_in"]) == ("Be {{ brief }}, and {% never mind.", False), "as it is"
    assert reason(ines.post("/v1/prompts/system/render", json={}))[0] == "name"
    removed = olga.delete("/v1/prompts/system").json()
    assert removed["version"] == 2
    shown = ines.get("/v1/prompts/system?min_version=2").json()
    assert (shown["template"], shown["version"], shown["built_in"]) == (BUILT_IN.text, 2, True)
    assert [one["removed"] for one in shown["versions"]] == [True, False]


def test_a_prompt_that_was_taken_away_is_gone_and_can_come_back(
    olga: httpx.Client, ines: httpx.Client
) -> None:
    put(olga, "old", "x")
    assert olga.delete("/v1/prompts/old").json()["version"] == 2
    assert ines.get("/v1/prompts/old?min_version=2").status_code == 404
    assert ines.post("/v1/prompts/old/render?min_version=2", json={}).status_code == 404
    assert olga.delete("/v1/prompts/old").status_code == 404
    assert put(olga, "old", "x").json()["version"] == 3
    assert ines.get("/v1/prompts/old?min_version=3").json()["template"] == "x"
    assert ines.get("/v1/prompts/old?version=2").status_code == 404
    assert reason(ines.get("/v1/prompts/old?version=4")) == ("version", "there is only version 3")


def test_only_ops_write_and_only_people_of_the_tenant_read(
    api: Api, tenant: UUID, ines: httpx.Client, carl: httpx.Client
) -> None:
    assert put(ines, "weekly", "x").status_code == 403
    assert ines.delete("/v1/prompts/weekly").status_code == 403
    assert carl.get("/v1/prompts/system").status_code == 403
    assert httpx.get(f"{api.url}/v1/prompts").status_code == 401


def test_a_command_is_done_once_and_only_on_what_was_seen(olga: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    first = put(olga, "weekly", "x", **key)
    again = put(olga, "weekly", "x", **key)
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert put(olga, "weekly", "y", **key).status_code == 422
    assert put(olga, "monthly", "x", **key).status_code == 422, "the name is part of the request"
    assert put(olga, "weekly", "y", **{"If-Match": '"7"'}).status_code == 412
    assert put(olga, "weekly", "y", **{"If-Match": '"1"'}).json()["version"] == 2
    assert olga.delete("/v1/prompts/weekly", headers={"If-Match": '"1"'}).status_code == 412


@pytest.mark.parametrize("name", ["Weekly", "a.b", "a" * 65, "%20", "ä"])
def test_names_are_plain(olga: httpx.Client, name: str) -> None:
    assert put(olga, name, "x").status_code == 400
    assert olga.get(f"/v1/prompts/{name}").status_code == 400


def test_a_bad_template_is_refused_with_its_line(olga: httpx.Client) -> None:
    assert reason(put(olga, "bad", "Dear\n{{ name")) == (
        "template", "line 2: unexpected end of input, expected end of variable block",
    )  # fmt: skip
    assert reason(put(olga, "bad", "{{ " + "-" * 90_000 + "1 }}")) == ("template", "is nested too deeply")
    assert reason(put(olga, "bad", "x" * 100_001))[0] == "template"
    assert reason(put(olga, "bad", "x\x00"))[0] == "template"
    assert olga.get("/v1/prompts/bad").status_code == 404


def test_a_system_prompt_leaves_room_for_history(olga: httpx.Client) -> None:
    field, why = reason(put(olga, "system", "word " * 5_000))
    assert field == "template"
    assert "the system prompt may take 4,000 here" in why
    assert put(olga, "system", "word " * 3_000).status_code == 200


def test_what_a_template_lacks_is_named(olga: httpx.Client, ines: httpx.Client) -> None:
    put(olga, "weekly", "Week {{ week }}\nof {{ year.number }}")
    render = "/v1/prompts/weekly/render?min_version=1"
    assert reason(ines.post(render, json={"data": {"week": 7}})) == (
        "data", "line 2: `year` is undefined",
    )  # fmt: skip
    assert reason(ines.post(render, json={"data": {"week": 7, "year": {}}}))[1] == (
        "line 2: `year.number` is undefined"
    )
    assert reason(ines.post(render, json={"data": [7]}))[0] == "data"
    deep = b'{"data": {"week": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}"
    kind = {"Content-Type": "application/json"}
    assert ines.post(render, content=deep, headers=kind).status_code == 400


def test_nobody_waits_for_a_hostile_template(olga: httpx.Client, ines: httpx.Client) -> None:
    put(olga, "endless", "{% set s = [1] %}" + "{% set s = [s, s] %}" * 60 + "{{ s }}")
    put(olga, "huge", "{{ 'x' * 10**9 }}")
    ines.get("/v1/prompts/huge?min_version=1")
    answered, told = 0, list[httpx.Response]()
    rendering = threading.Thread(
        target=lambda: told.append(ines.post("/v1/prompts/endless/render?min_version=1", json={}))
    )
    rendering.start()
    while rendering.is_alive():
        assert olga.get("/v1/prompts/huge").status_code == 200
        answered += 1
    assert reason(told[0]) == ("template", "takes longer than 1 s")
    assert answered > 5
    assert "too large" in reason(ines.post("/v1/prompts/huge/render", json={}))[1]


def test_nobody_waits_for_another_tenants_templates_and_nobody_forever(
    api: Api, olga: httpx.Client, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderers, "WAITING", 1)
    put(olga, "endless", "{% set s = [1] %}" + "{% set s = [s, s] %}" * 60 + "{{ s }}")
    olga.get("/v1/prompts/endless?min_version=1")
    told = list[int]()

    def render() -> None:
        with api.client("olga", tenant=str(tenant)) as client:
            told.append(client.post("/v1/prompts/endless/render", json={}).status_code)

    rendering = [threading.Thread(target=render) for _ in range(3)]
    for thread in rendering:
        thread.start()
    while 503 not in told:
        assert any(thread.is_alive() for thread in rendering)
        time.sleep(0.01)
    with api.client("eve", tenant=str(uuid4()), roles=["user", "ops"]) as eve:
        put(eve, "hello", "Hello {{ name }}")
        hello = eve.post("/v1/prompts/hello/render?min_version=1", json={"data": {"name": "Eve"}})
        assert hello.json()["text"] == "Hello Eve"
    assert any(thread.is_alive() for thread in rendering), "they are still at it"
    for thread in rendering:
        thread.join()
    assert sorted(told) == [400, 400, 503]
