"""compose.yaml: what it describes can be read, and is what the README says it is."""

import re
from pathlib import Path

from compose_spec import PyOptions

from bichat.config import Config, load

COMPOSE = Path(__file__).parent.parent / "compose.yaml"


def test_compose_file_follows_its_specification_and_has_two_of_each_part() -> None:
    compose = PyOptions(apply_merge=True).from_yaml(COMPOSE.read_text())
    compose.validate()
    services = compose.to_dict()["services"]
    scales = {name: service.get("scale", 1) for name, service in services.items()}
    assert scales == {"postgres": 1, "valkey": 1, "migrate": 1, "api": 2, "worker": 2, "projector": 2}


def test_every_part_starts_after_the_schema_is_there() -> None:
    services = PyOptions(apply_merge=True).from_yaml(COMPOSE.read_text()).to_dict()["services"]
    for part in ("api", "worker", "projector"):
        assert services[part]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_its_parts_take_the_settings_and_are_asked_whether_they_are_ready() -> None:
    services = PyOptions(apply_merge=True).from_yaml(COMPOSE.read_text()).to_dict()["services"]
    settings = {name: str(value) for name, value in services["api"]["environment"].items()}
    given = {name: re.sub(r"\$\{\w+:[-?]\}", "", value) for name, value in settings.items()}
    config = load({**given, "BICHAT_MASTER_KEY": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="})
    assert config.bichat_plaintext  # said, or the services of the network would be refused
    [_, *verb] = services["api"]["healthcheck"]["test"]
    assert verb == ["bichat", "health"]


ELSEWHERE = {
    "bichat_data_dir",  # of bichat's own servers, which compose.yaml does without
    "bichat_host", "bichat_port",  # the Dockerfile's, and the ports that are published
    "bichat_jwt_public_key",  # instead of the secret, which is asked for
    "bichat_tls_cert", "bichat_tls_key",  # files, to be mounted
}  # fmt: skip
GIVEN = {"database_url", "redis_url", "bichat_plaintext"}
"""What fits the services that are described."""


def test_every_setting_is_passed_on_or_meant_for_elsewhere() -> None:
    services = PyOptions(apply_merge=True).from_yaml(COMPOSE.read_text()).to_dict()["services"]
    passed = {name for name in Config.__struct_fields__ if name not in ELSEWHERE}
    for part in ("migrate", "api", "worker", "projector"):
        settings = services[part]["environment"]
        assert {name.lower() for name in settings} == passed
        for name in passed - GIVEN:
            assert re.fullmatch(rf"\$\{{{name.upper()}:[-?]\}}", settings[name.upper()])


def test_the_readme_says_which_settings_are_not_passed_on() -> None:
    readme = (COMPOSE.parent / "README.md").read_text()
    marked = re.findall(r"^\| (.*) ∘ \|", readme, re.MULTILINE)
    names = {
        name.lower() for line in marked for name in re.findall(r"`([A-Z_]+)`", line.rpartition(" or ")[2])
    }
    assert names - {"bichat_url", "bichat_token"} == ELSEWHERE
