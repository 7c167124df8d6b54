"""The manifests: valid to the last field, complete, and by the house's rules."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shared.base.secret_files import SecretFolder
from shared.base.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[2]
BASE = ROOT / "k8s" / "base"
VERSIONS = ("1.30", "1.34", "1.37")
WORKLOADS = {"Deployment", "StatefulSet", "Job"}
OURS = {"api", "tokenizer", "trainer", "inference", "provision", "migrate"}
SHORTEST_DRAIN_SECONDS = 120


def documents() -> Iterator[dict[str, Any]]:
    for name in yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


ALL = list(documents())
PODS = {
    document["metadata"]["name"]: document["spec"]["template"]["spec"]
    for document in ALL
    if document["kind"] in WORKLOADS
}


def refusals(document: dict[str, Any], version: str) -> list[str]:
    """Why a cluster of this version would refuse it, or would ignore a part of it."""
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_to_the_last_field(version: str) -> None:
    found = {
        f"{document['kind']} {document['metadata']['name']}": problems
        for document in ALL
        if (problems := refusals(document, version))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Deploymnet"}, "Couldn't find schema for kind Deploymnet"),
        ({"apiVersion": "extensions/v1beta1"}, "Couldn't find schema"),
        ({"spec": {"replcas": 2}}, "'replcas' was unexpected"),
    ],
)
def test_an_unknown_kind_or_field_would_be_found(change: dict[str, Any], message: str) -> None:
    deployment = next(document for document in ALL if document["kind"] == "Deployment")
    spec = {**deployment["spec"], **change.get("spec", {})}
    (problem,) = refusals({**deployment, **change, "spec": spec}, VERSIONS[-1])
    assert message in problem


def test_every_file_of_the_base_is_listed() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in BASE.iterdir()} == {*listed, "kustomization.yaml"}


@pytest.mark.parametrize("folder", ["base", "overlays/cpu"])
def test_kustomize_builds_it(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here to build the overlay with")
    command = ["kubectl", "kustomize", str(ROOT / "k8s" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert [problem for document in built for problem in refusals(document, VERSIONS[-1])] == []
    assert len(built) == len(ALL)
    trainer = next(
        document["spec"]["template"]["spec"]["containers"][0]
        for document in built
        if (document["kind"], document["metadata"]["name"]) == ("Deployment", "trainer")
    )
    on_gpu = folder == "base"
    assert trainer["image"] == ("ryan-gpt-trainer:latest" + ("" if on_gpu else "-cpu"))
    assert ("limits" in trainer["resources"]) is on_gpu


def test_every_service_of_the_compose_file_is_here() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert set(PODS) == set(compose) - {"init"}


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_is_nobody_and_may_nothing(name: str) -> None:
    pod = PODS[name]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security.get("readOnlyRootFilesystem", False) is (name in OURS)
    # A Service called `x` would set X_PORT and the like in every pod.
    assert (pod["enableServiceLinks"], pod["automountServiceAccountToken"]) == (False, False)


@pytest.mark.parametrize("name", sorted(set(PODS) - {"migrate", "provision"}))
def test_a_service_is_probed(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert "livenessProbe" in container
    assert "readinessProbe" in container or name in {"tokenizer", "trainer"}


def test_a_trainer_has_one_gpu_and_time_to_store_a_checkpoint() -> None:
    trainer = PODS["trainer"]
    assert trainer["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert trainer["terminationGracePeriodSeconds"] >= SHORTEST_DRAIN_SECONDS
    assert PODS["tokenizer"]["terminationGracePeriodSeconds"] >= SHORTEST_DRAIN_SECONDS


def test_every_setting_is_one_that_the_code_reads() -> None:
    known = set(Settings.model_fields)
    named = [
        variable["name"]
        for pod in PODS.values()
        for variable in pod["containers"][0].get("env", [])
    ]
    named += next(document for document in ALL if document["kind"] == "ConfigMap")["data"]
    ours = [name for name in named if name.startswith(ENV_PREFIX)]
    assert len(ours) > 10
    fields = {name.removeprefix(ENV_PREFIX).removesuffix("_FILE").lower() for name in ours}
    assert fields <= known


def test_the_secrets_are_made_by_the_script_that_the_page_names(tmp_path: Path) -> None:
    """With a kubectl that only remembers what it was asked."""
    script = ROOT / "k8s" / "make-secrets.sh"
    fake = tmp_path / "bin" / "kubectl"
    fake.parent.mkdir()
    copy = f'case "$a" in --from-file=*) cp -r "${{a#--from-file=}}" {tmp_path};; esac'
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor a; do {copy}; done\n')
    fake.chmod(stat.S_IRWXU)
    path = f"{fake.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [script, "--dry-run=client"], env={**os.environ, "PATH": path, "PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("API token (shown this once): ")
    wanted = {f"ryan-gpt-{part}" for part in ("platform", "servers")}
    calls = (tmp_path / "calls").read_text().splitlines()
    assert {call.split()[3] for call in calls} == wanted
    used = {
        volume["secret"]["secretName"]
        for pod in PODS.values()
        for volume in pod["volumes"]
        if "secret" in volume
    }
    assert used == wanted
    assert SecretFolder(tmp_path / "platform", ("database_url",)).check() is not None
