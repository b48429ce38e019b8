"""What docs/distributed has for many machines: valid by the schemas of those who read it, and of one mind."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator

from bench.scenario_toml import load
from bench.target import arm_of, parser
from servers.service import HEALTH_PATH

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "distributed"
PAGE = ROOT / "docs" / "distributed.md"
ROLES = ("target", "master", "worker")
KUBERNETES = ("1.25", "1.37")
"""The oldest version that refuses unknown keys by itself, and the newest whose schemas are at hand."""

# Locust patches the standard library when it is imported: it gets a process of its own.
LOCUST = """
import json, sys
from locust.argument_parser import get_parser
import bench.swarm.locustfile
answers = []
for argv in json.load(sys.stdin):
    options = get_parser([])
    answers.append(vars(options.parse_args(argv)))
print(json.dumps({"known": sorted(options._option_string_actions), "answers": answers}, default=str))
"""


def compose(text: str | None = None) -> dict[str, Any]:
    """The compose file as it is read where the environment sets nothing."""
    text = text or (FOLDER / "compose.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text))
    return found


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def workloads() -> dict[str, dict[str, Any]]:
    """By role, what Kubernetes is to run."""
    found = [one for one in manifests() if "template" in one.get("spec", {})]
    return {one["metadata"]["name"]: one for one in found}


def container(role: str) -> dict[str, Any]:
    (found,) = workloads()[role]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def complaints(document: dict[str, Any]) -> list[str]:
    """What the compose specification has against a document."""
    schema = get_builtin_schema("vendor.compose-spec")
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def dockerfile() -> list[list[str]]:
    """Its instructions, as words."""
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


class Command(NamedTuple):
    where: str
    role: str
    options: list[str]


def written_commands() -> list[Command]:
    """The commands of the page: what stands in its blocks of code."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True) if line.startswith(("locust ", "tokenwire serve ")) else []
        if words[:1] == ["locust"]:
            found.append(Command("page", "master" if "--master" in words else "worker", words[1:]))
        elif words:
            found.append(Command("page", "target", words[2:]))
    return found


def deployed_commands() -> list[Command]:
    """What the containers are given, as the entry point hands it on."""
    found = []
    for where, given in (
        ("compose", [service["command"] for service in compose()["services"].values()]),
        ("kubernetes", [container(role)["args"] for role in workloads()]),
    ):
        for role, *options in given:
            own = [] if role == "target" else [f"--{role}"]
            found.append(Command(where, role, [*own, *options]))
    return found


COMMANDS = [*written_commands(), *deployed_commands()]


@cache
def by_locust() -> dict[str, Any]:
    """Every option of Locust with our locustfile, and what it makes of each command, by place and role."""
    asked = [command for command in COMMANDS if command.role != "target"]
    given = json.dumps([command.options for command in asked])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LOCUST_")}
    done = subprocess.run(
        [sys.executable, "-c", LOCUST], input=given, capture_output=True, text=True, timeout=60, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    answers = zip(asked, said["answers"], strict=True)
    return {"known": said["known"], **{f"{c.where} {c.role}": answer for c, answer in answers}}


def test_every_place_has_every_role() -> None:
    assert sorted((c.where, c.role) for c in COMMANDS) == sorted(
        (where, role) for where in ("page", "compose", "kubernetes") for role in ROLES
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: f"{c.where}-{c.role}")
def test_options_exist(command: Command) -> None:
    # Word for word: Locust would take abbreviations too.
    known = set(parser()._option_string_actions if command.role == "target" else by_locust()["known"])
    flags = {word.partition("=")[0] for word in command.options if re.match(r"--?[a-z]", word)}
    assert flags
    assert flags <= known


@pytest.mark.parametrize("where", ["page", "compose", "kubernetes"])
def test_target_master_and_workers_are_of_one_mind(where: str) -> None:
    (given,) = [command.options for command in COMMANDS if (command.where, command.role) == (where, "target")]
    target = parser().parse_args(given)
    master, worker = by_locust()[f"{where} master"], by_locust()[f"{where} worker"]
    scenario = load(target.scenario)
    arm_of(scenario, target.arm, where)
    assert target.host == "0.0.0.0", "others are to reach it"
    assert (master["scenario"], master["phase"] in scenario.phases) == (target.scenario, True)
    assert (master["master"], worker["worker"]) == (True, True)
    url = urlsplit(master["host"])
    assert (url.scheme, str(url.port)) == ("http", target.port)
    assert master["master_bind_port"] == worker["master_port"] == 5557
    assert master["web_port"] == 8089
    assert master["run_time"]
    if where == "page":
        assert url.hostname != worker["master_host"]
        assert master["expect_workers"] == worker["processes"]
    else:
        assert (url.hostname, worker["master_host"]) == ("target", "master")
        assert master["autostart"], "nobody is there to press a button"


def test_compose_keeps_to_the_specification() -> None:
    for document in (compose(), yaml.safe_load((FOLDER / "compose.yaml").read_text())):
        assert complaints(document) == []
    assert "version" not in compose()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("servces",), {}),
        (("services", "worker", "stop_grace_periode"), "30s"),
        (("services", "target", "healthcheck", "intervall"), "60s"),
        (("services", "worker", "deploy", "replica"), 4),
        (("services", "target", "ulimits", "nofile"), {"soft": 65536, "most": 65536}),
        (("services", "master", "depends_on", "target", "condition"), "healthy"),
    ],
)
def test_a_wrong_compose_file_is_refused(path: tuple[str, ...], value: object) -> None:
    assert complaints(changed(compose(), path, value))


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """A copy with one value put in."""
    document = copy.deepcopy(document)
    *way, last = path
    at: Any = document
    for step in way:
        at = at[step]
    at[last] = value
    return document


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_keep_to_the_schemas_of_kubernetes(version: str) -> None:
    for document in manifests():
        assert kubernetes_validate.validate(document, version, strict=True) == version


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Namespace", "tokenwire", ("metadata", "labls"), {}),
        ("Deployment", "worker", ("spec", "replica"), 4),
        ("Deployment", "worker", ("spec", "replicas"), "four"),
        ("Deployment", "target", ("spec", "template", "spec", "containers", 0, "readynessProbe"), {}),
        ("Deployment", "target", ("spec", "template", "spec", "terminationGracePeriod"), 10),
        ("Job", "master", ("spec", "template", "spec", "containers", 0, "securityContext", "readOnly"), True),
        ("Service", "master", ("spec", "ports", 0, "containerPort"), 5557),
    ],
)
def test_a_wrong_manifest_is_refused(kind: str, name: str, path: tuple[str | int, ...], value: object) -> None:
    wrong = changed(manifest(kind, name), path, value)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[-1], strict=True)


def test_there_is_one_image() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = {service["image"] for service in compose()["services"].values()}
    named |= {container(role)["image"] for role in ROLES}
    for text in ((FOLDER / "Dockerfile").read_text(), PAGE.read_text()):
        named |= set(re.findall(r"docker build -f docs/distributed/Dockerfile -t (\S+) \.", text))
    assert named == {f"tokenwire:{version}"}


def test_compose_agrees_with_itself() -> None:
    services = compose()["services"]
    assert set(services) == set(ROLES)
    expected = by_locust()["compose master"]["expect_workers"]
    assert services["worker"]["deploy"]["replicas"] == expected
    # Set in the environment, it is still one number for both.
    more = compose((FOLDER / "compose.yaml").read_text().replace("${WORKERS:-4}", "7"))["services"]
    assert more["worker"]["deploy"]["replicas"] == int(option(more["master"]["command"], "--expect-workers")) == 7
    for role in ("master", "worker"):
        (volume,) = services[role]["volumes"]
        name, _, path = volume.partition(":")
        assert name in compose()["volumes"]
        assert path == option(services[role]["command"], "--records")
    for service in services.values():
        assert service["build"] == {"context": "../..", "dockerfile": "docs/distributed/Dockerfile"}
        assert (FOLDER / service["build"]["context"]).resolve() == ROOT
        assert service["stop_grace_period"]
        assert service["ulimits"]["nofile"] == {"soft": 65536, "hard": 65536}
    assert f"http://127.0.0.1:8000{HEALTH_PATH}" in services["target"]["healthcheck"]["test"][-1]
    assert "http://127.0.0.1:8089/" in services["master"]["healthcheck"]["test"][-1]
    assert services["master"]["ports"] == ["127.0.0.1:8089:8089"]
    assert services["worker"]["environment"] == {"TOKENWIRE_API_KEY": None}, "no value, which would be in this file"


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


@pytest.mark.parametrize("role", ["target", "master"])
def test_services_lead_to_the_pods(role: str) -> None:
    pod, service = workloads()[role]["spec"]["template"], manifest("Service", role)["spec"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container(role)["ports"]}
    assert {port["port"] for port in service["ports"]} == ({8000} if role == "target" else {5557, 8089})
    for port in service["ports"]:
        assert ports[port["targetPort"]] == port["port"], "a headless service changes no port"
    others = [other for other in ROLES if other != role]
    for other in others:
        labels = workloads()[other]["spec"]["template"]["metadata"]["labels"]
        assert not service["selector"].items() <= labels.items()


def test_kubernetes_agrees_with_itself() -> None:
    assert set(workloads()) == set(ROLES)
    space = manifest("Namespace", "tokenwire")["metadata"]["name"]
    assert all(one["metadata"]["namespace"] == space for one in manifests() if one["kind"] != "Namespace")
    assert workloads()["worker"]["spec"]["replicas"] == by_locust()["kubernetes master"]["expect_workers"]
    probe = container("target")["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["port"]) == (HEALTH_PATH, container("target")["ports"][0]["name"])
    assert container("master")["readinessProbe"]["tcpSocket"]["port"] in {
        p["name"] for p in container("master")["ports"]
    }
    (key,) = container("worker")["env"]
    secret = key["valueFrom"]["secretKeyRef"]
    assert key["name"] == secret["key"] == "TOKENWIRE_API_KEY"
    assert f"create secret generic {secret['name']} --from-file={secret['key']}=" in PAGE.read_text()


@pytest.mark.parametrize("role", ROLES)
def test_pods_are_permitted_little_and_have_a_core(role: str) -> None:
    workload = workloads()[role]
    pod, one = workload["spec"]["template"]["spec"], container(role)
    if workload["kind"] == "Deployment":
        selected = workload["spec"]["selector"]["matchLabels"]
        assert selected.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    # What the namespace's policy "restricted" asks for, or Kubernetes would refuse the pods.
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"]["allowPrivilegeEscalation"] is False
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert one["securityContext"]["readOnlyRootFilesystem"] is True
    (user,) = [words[1] for words in dockerfile() if words[0] == "USER"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    # A whole core, equal in both: else the static CPU manager gives it none of its own.
    assert one["resources"]["requests"] == one["resources"]["limits"]
    assert one["resources"]["requests"]["cpu"] == "1"
    assert pod["terminationGracePeriodSeconds"] >= 10
    volumes = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
    mounted = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
    assert set(mounted.values()) == volumes
    assert "/tmp" in mounted
    if role != "target":
        assert option(one["args"], "--records") in mounted


def test_the_image_is_made_of_what_is_there() -> None:
    copied = [path for words in dockerfile() if words[0] == "COPY" and "--from" not in words[1] for path in words[1:-1]]
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], project["project"]["readme"]}
    assert needed | {"pyproject.toml", "requirements.lock"} <= set(copied)
    # Docker reads the list beside the Dockerfile, of the same name.
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_the_image_runs_what_it_copied_and_not_as_root() -> None:
    words = dockerfile()
    bases = [instruction[1] for instruction in words if instruction[0] == "FROM"]
    assert bases[-1] == "python:3.12-slim"
    assert {base.removesuffix("-slim") for base in bases} == {"python:3.12"}, "the environment is made for one Python"
    (entry,) = [json.loads(" ".join(words[1:])) for words in dockerfile() if words[0] == "ENTRYPOINT"]
    (placed,) = [line[-1] for line in words if line[0] == "COPY" and line[1].endswith("entrypoint.sh")]
    assert entry == ["sh", placed]
    (ports,) = [line[1:] for line in words if line[0] == "EXPOSE"]
    assert ports == ["8000", "5557", "8089"]
    (user,) = [line[1] for line in words if line[0] == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes cannot tell from a name that it is not root"
    installs = [" ".join(line) for line in words if line[:4] == ["RUN", "pip", "install", "--require-hashes"]]
    assert installs == ["RUN pip install --require-hashes -r requirements.lock"]


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """An environment in which `tokenwire` and `locust` only say what they were asked."""
    for name in ("tokenwire", "locust"):
        stub = tmp_path / name
        stub.write_text(
            f'#!/bin/sh\n[ "$1" = locustfile ] && exec echo "/a path/locustfile.py"\nprintf "%s|" {name} "$@"\n'
        )
        stub.chmod(0o755)
    return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


def enter(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(FOLDER / "entrypoint.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False, env=environment)


def test_the_entry_point_tells_the_roles_apart(stubs: dict[str, str]) -> None:
    target = enter(stubs, "target", "--scenario", "my own.toml")
    assert target.stdout == "tokenwire|serve|--scenario|my own.toml|"
    for role in ("master", "worker"):
        locust = enter(stubs, role, "--records", "/records")
        assert locust.stdout == f"locust|-f|/a path/locustfile.py|--{role}|--records|/records|"


@pytest.mark.parametrize("words", [[], ["boss"], ["--help"]])
def test_a_role_that_is_none(stubs: dict[str, str], words: list[str]) -> None:
    done = enter(stubs, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "expected target, master or worker" in line


def test_a_locustfile_that_is_not_found_ends_it(stubs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tokenwire").write_text("#!/bin/sh\nexit 4\n")
    done = enter(stubs, "worker")
    assert (done.returncode, done.stdout) == (4, "")


def test_the_page_leads_to_files_that_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (PAGE.parent / link.partition("#")[0]).exists()] == []
