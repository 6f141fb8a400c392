"""Whatever a template does, it is text or a clear refusal, and this process lives on."""

from __future__ import annotations

import time

import pytest

from bichat import rendering
from bichat.errors import Invalid

BRANCHES = "{% set s = [s, s] %}" * 60
"""A list that is 2^60 items when it is written out, in a few bytes."""


def refused(template: str, data: bytes = b"{}") -> str:
    with pytest.raises(Invalid) as no:
        rendering.render(template, data)
    return str(no.value)


def test_a_template_is_filled_in_and_nothing_is_escaped() -> None:
    template = "{% for k, v in who.items() %}{{ k }}={{ v|upper }};{% endfor %}\n\n"
    assert rendering.render(template, b'{"who": {"a": "<b>", "c": "d"}}') == "a=<B>;c=D;\n"


def test_names_of_the_engines_own_are_free() -> None:
    assert rendering.render("{{ source ~ name ~ self }}", b'{"source": 1, "name": 2, "self": 3}') == "123"


def test_data_are_values_of_the_engines_own() -> None:
    data = b"""{"z": {"b": [1, null, true, -2.5e-7], "a": "{{ \\"x\\" %}\\n\\u00e9\\ud83d\\ude00"}, "null": 3,
        "_p": [], "gr\\u00f6\\u00dfe": [5], "not": {}, "with": 1, "no name": 4, "items": ["i"], "loop": 7}"""
    template = """{{ z.b|tojson }} {{ z|length }} {% for k, v in z|items %}{{ k }}{% endfor %} {{ z.a }}
{%- for k in z %} {{ k }}{% endfor %} {{ null }} {{ gr\u00f6\u00dfe[0] }}
{{- items[0] }} {{ loop }} {{ _p }} {{ z.get('q') }}"""
    told = '[1, null, true, -2.5e-7] 2 ba {{ "x" %}\n\u00e9\U0001f600 b a 3 5i 7 [] None'
    assert rendering.render(template, data) == told


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("Hello {{ items }}", "data: line 1: `items` is undefined"),
        ("\n{{ who.items }}", "data: line 2: `who.items` is undefined"),
        ("{{ who.clear() }}", "template: line 1: map has no method named clear"),
        ("{{ many.append(1) }}", "template: line 1: sequence has no method named append"),
        ("{{ many.sort }}", "data: line 1: `many.sort` is undefined"),
        ("{{ many.0.pop }}", "data: line 1: "),
    ],
)
def test_nothing_of_pythons_comes_with_the_data(template: str, why: str) -> None:
    assert refused(template, b'{"who": {"a": 1}, "many": [{"a": 1}]}').startswith(why)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("Dear\n{{ name }}", "data: line 2: `name` is undefined"),
        ("{{ who.name }}", "data: line 1: `who.name` is undefined"),
        ("{% for x in [who] %}{{ x.age }}{% endfor %}", "data: line 1: `x.age` is undefined"),
        ("{{ ''.__class__ }}", "data: line 1: `(...).__class__` is undefined"),
        ("{{ who|attr('__init__') }}", "data: line 1: "),
        ("\n\n{% if %}", "template: line 3: unexpected end of block"),
        ("{{ who|nothing }}", "template: line 1: filter nothing is unknown"),
        ("{% include '/etc/passwd' %}", "template: line 1: tried to include non-existing template"),
        ("{% import '/etc/passwd' as p %}", "template: line 1: tried to include non-existing template"),
        ("{% extends 'x' %}", 'template: line 1: template "x" does not exist'),
    ],
)
def test_what_is_wrong_is_told_with_its_line(template: str, why: str) -> None:
    assert refused(template, b'{"who": {}}').startswith(why)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for i in range(10**9) %}{% endfor %}", "range has too many elements"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "too many steps"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "recursion limit exceeded"),
        (
            "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
            "too many steps",
        ),
        ("{% for x in deep recursive %}{{ loop(deep) }}{% endfor %}", "recursion limit exceeded"),
        ("{{ 'x' * 10**9 }}", "too large"),
        ("{{ 'a' * 100000000 }}", "256 MB of memory"),
        ("{{ 'x' * 300000 }}", "longer than 200,000 characters"),
        ("{% set s = 'x' * 1000 %}" + "{% set s = s ~ s %}" * 30, "256 MB of memory"),
        ("{{ ('x' * 100000)|replace('x', 'y' * 100000) }}", "256 MB of memory"),
        ("{{ (['x'] * 100000)|join('y' * 100000) }}", "256 MB of memory"),
        ("{{ '%1000000000d'|format(1) }}", "256 MB of memory"),
        ("{{ '{:1000000000}'.format(1) }}", "256 MB of memory"),
        ("{{ 'x\ny'|indent(1000000000) }}", "256 MB of memory"),
        ("{% set s = [1] %}" + BRANCHES + "{{ s }}", "takes longer than 1 s"),
        ("{% set s = [1] %}" + BRANCHES + "{{ s|tojson|length }}", "takes longer than 1 s"),
        ("{{ " + "-" * 90_000 + "1 }}", "nested too deeply"),
        ("{{ 1" + "+1" * 40_000 + " }}", "nested too deeply"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion limits"),
        ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "recursion limits"),
    ],
)
def test_a_hostile_template_ends_soon_and_says_why(template: str, why: str) -> None:
    before = time.monotonic()
    assert why in refused(template, b'{"deep": [[1]]}')
    assert time.monotonic() - before < rendering.PATIENCE


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "recursion"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "recursion limits"),
        (b'{"a": ' + b"9" * 99 + b"}", "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits"),
    ],
)
def test_data_that_nothing_can_hold_is_refused(data: bytes, why: str) -> None:
    told = refused("{{ a }}", data)
    assert told.startswith("data: ")
    assert why in told


def test_half_of_a_character_in_data_does_no_harm() -> None:
    assert "\ud800" not in rendering.render("{{ a }}", b'{"a": "\\ud800"}')


@pytest.mark.parametrize("template", ["{{ who }} and {{ nobody.at.all }}", "", "no template at all"])
def test_what_is_a_template_passes(template: str) -> None:
    rendering.check(template)


@pytest.mark.parametrize(("template", "line"), [("a\n{{ b", 2), ("{% endfor %}", 1), ("{{ a }}\n\n{{", 3)])
def test_what_is_no_template_is_told_with_its_line(template: str, line: int) -> None:
    with pytest.raises(Invalid, match=f"^template: line {line}: "):
        rendering.check(template)


def test_a_template_that_is_too_deep_is_no_template() -> None:
    with pytest.raises(Invalid, match="nested too deeply"):
        rendering.check("{{ " + "-" * 90_000 + "1 }}")
