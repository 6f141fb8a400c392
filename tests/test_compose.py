"""compose.yaml: what it describes can be read, and is what the README says it is."""

from pathlib import Path

from compose_spec import PyOptions

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
