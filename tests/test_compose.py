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
    assert {name.lower() for name in settings} <= set(Config.__struct_fields__)
    [_, *verb] = services["api"]["healthcheck"]["test"]
    assert verb == ["bichat", "health"]
