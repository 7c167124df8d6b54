"""The compose file and the images' files: readable by Compose, and by the house's rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from shared.base.secret_files import PLATFORM_FILES, SERVER_FILES
from shared.base.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
BUILT = ("api", "tokenizer", "trainer", "inference")
ONCE = ("init", "provision", "migrate")
SERVERS = ("postgres", "redis", "s3")
DRAIN_SECONDS = {"trainer": 120, "tokenizer": 120}


class ComposeLoader(yaml.SafeLoader):
    """Knows the tags with which an override takes something away."""


ComposeLoader.add_constructor("!reset", lambda *_: None)


def compose_file(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / name).read_text(), ComposeLoader)
    return document


COMPOSE = compose_file("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def with_defaults(text: str) -> str:
    """Variables replaced by their defaults; no tag beside a digest, which the reader refuses."""
    return re.sub(r":[^:@]+@sha256:", "@sha256:", re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text))


def read(services: dict[str, dict[str, Any]]) -> PyCompose:
    """Read it by the Compose Specification. Raises ValueError for what that does not know."""
    return PyCompose.from_yaml(with_defaults(yaml.safe_dump({**COMPOSE, "services": services})))


def test_it_follows_the_compose_specification() -> None:
    assert set(read(SERVICES).service_names()) == set(SERVICES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imge": "x"}, "services.api: extension key `imge`"),
        ({"healthcheck": {"tst": ["CMD"]}}, "services.api.healthcheck: extension key `tst`"),
        ({"restart": [1]}, "services.api.restart: invalid type"),
        ({"depends_on": {"s3": {"condition": "well"}}}, "unknown variant `well`"),
    ],
)
def test_a_key_or_value_that_is_unknown_would_be_found(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read({**SERVICES, "api": {**SERVICES["api"], **change}})


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("files", [[], ["compose.cpu.yml"]])
def test_compose_reads_it(files: list[str]) -> None:
    if not has_compose():
        pytest.skip("no docker compose here to read the file; its rules are checked below")
    options = [argument for name in ["docker-compose.yml", *files] for argument in ("-f", name)]
    done = subprocess.run(
        ["docker", "compose", *options, "config", "--format", "json"],
        # No engine is needed for this, and none is asked.
        env={**os.environ, "DOCKER_HOST": "unix:///nonexistent.sock"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    services = json.loads(done.stdout)["services"]
    on_gpu = not files
    for name in ("trainer", "inference"):
        assert ("deploy" in services[name]) is on_gpu
        assert services[name]["image"].endswith("-cpu") is not on_gpu


def test_the_services_are_those_of_the_platform() -> None:
    assert set(SERVICES) == {*BUILT, *ONCE, *SERVERS}


def test_only_the_api_is_published_and_on_loopback_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["${RYANGPT_PUBLISH:-127.0.0.1}:${RYANGPT_API_PORT:-8000}:8000"]}


@pytest.mark.parametrize("name", sorted({*BUILT, *SERVERS}))
def test_a_service_says_when_it_is_well_and_comes_back(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", [*BUILT, *ONCE])
def test_our_containers_are_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"init"}))
def test_a_service_waits_for_what_it_needs(name: str) -> None:
    for needed, wish in SERVICES[name]["depends_on"].items():
        condition = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert wish == {"condition": condition}


def test_secrets_are_files_and_no_variable_of_any_container() -> None:
    made = {*PLATFORM_FILES, *SERVER_FILES}
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|PASSWORD|SECRET|ACCESS_KEY|_URL_FILE|ROOT_USER", variable):
                if (name, variable) == ("init", "RYANGPT_API_TOKEN"):
                    continue  # a token of the user's own choice, for the first start
                assert variable.endswith("_FILE"), (name, variable)
                assert Path(value).name in made


def test_the_servers_secrets_reach_only_who_needs_them() -> None:
    holders = {
        name
        for name, service in SERVICES.items()
        if any(volume.startswith("server-secrets:") for volume in service.get("volumes", []))
    }
    assert holders == {"init", "provision", *SERVERS}
    writers = {
        name
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if re.match(r"(server-)?secrets:", volume) and not volume.endswith(":ro")
    }
    assert writers == {"init", "provision"}


def test_the_inference_service_reaches_neither_database_nor_the_world() -> None:
    assert set(SERVICES["inference"]["networks"]) == {"objects", "queue", "inference"}
    inside = {name for name, network in COMPOSE["networks"].items() if network}
    assert inside == {"database", "objects", "queue", "inference"}
    assert "RYANGPT_DATABASE_URL_FILE" not in SERVICES["inference"]["environment"]


@pytest.mark.parametrize(("name", "seconds"), DRAIN_SECONDS.items())
def test_a_worker_has_time_to_store_a_checkpoint(name: str, seconds: int) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= seconds


def test_all_trainers_share_the_locks_on_gpus() -> None:
    trainer = SERVICES["trainer"]
    assert "slot-locks:/slots" in trainer["volumes"]
    assert trainer["environment"]["RYANGPT_SLOT_LOCK_DIR"] == "/slots"


@pytest.mark.parametrize("name", ["tokenizer", "trainer"])
def test_each_replica_of_a_worker_has_a_file_of_life_of_its_own(name: str) -> None:
    """In memory, in a folder whose mode the image gives: the mount's own is lost by a restart."""
    assert "/data/run" in SERVICES[name]["tmpfs"]
    assert "install -d -m 1777 /data/run" in (ROOT / "services" / name / "Dockerfile").read_text()


def test_every_setting_is_one_that_the_code_reads() -> None:
    named = {
        variable for service in SERVICES.values() for variable in service.get("environment", {})
    }
    ours = {name for name in named if name.startswith(ENV_PREFIX)}
    fields = {name.removeprefix(ENV_PREFIX).removesuffix("_FILE").lower() for name in ours}
    assert len(fields) > 10
    assert fields <= set(Settings.model_fields)


def test_the_object_store_is_pinned_by_digest_and_can_be_another() -> None:
    assert re.fullmatch(
        r"\$\{RYANGPT_S3_IMAGE:-[a-z]+/[a-z]+:RELEASE\.[0-9TZ-]+@sha256:[0-9a-f]{64}\}",
        SERVICES["s3"]["image"],
    )


@pytest.mark.parametrize("name", BUILT)
def test_an_image_is_built_in_two_stages_and_runs_as_nobody(name: str) -> None:
    lines = (ROOT / "services" / name / "Dockerfile").read_text().splitlines()
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    assert bases == ["python:3.11-slim", "debian:bookworm-slim"]
    assert "USER 10001:10001" in lines
    assert not any("syntax=" in line for line in lines)
    assert lines[-1] == f'CMD ["python3", "-m", "services.{name}"]'


@pytest.mark.parametrize("name", BUILT)
def test_an_image_holds_exact_versions_and_torch_only_where_it_computes(name: str) -> None:
    text = (ROOT / "services" / name / "Dockerfile").read_text()
    assert "-c constraints.txt" in text
    computes = name in ("trainer", "inference")
    assert ("torch==$TORCH_VERSION" in text) is computes
    if computes:
        pin = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
        assert pin is not None
        assert f"ARG TORCH_VERSION={pin[1]}\n" in text
        arguments = compose_file("compose.cpu.yml")["services"][name]["build"]["args"]
        assert (arguments["TORCH_VERSION"], arguments["EXTRAS"]) == (f"{pin[1]}+cpu", name)


def test_nothing_but_the_code_goes_into_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line for line in rules if line.startswith("!.git")} == {
        "!.git/HEAD", "!.git/packed-refs", "!.git/refs/heads",
    }  # fmt: skip
