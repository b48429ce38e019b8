"""The files for continuous integration: valid by the schemas of those who read them, careful, run with stand-ins."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for
from ruamel.yaml import YAML

from bench.gate.cli import gate as gate_command
from bench.gate.outputs.markdown import MARKER
from bench.gate.result import CODES

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
GITLAB = ROOT / "docs" / "ci" / "gitlab-ci.yml"
PAGE = ROOT / "docs" / "ci.md"
SCHEMAS = {ACTION: "github-actions", GITLAB: "gitlab-ci", **dict.fromkeys(WORKFLOWS, "github-workflows")}
LONGEST_MINUTES = 60
NODE = shutil.which("node")

ODD = (
    'it\'s "two"  words; touch pwned; $(touch pwned) `touch pwned` ${HOME} {port} *\n::error::no\nexit-code=0\n--x=a #'
)
"""What would do harm, or fall apart, where a script were to read it as anything but a value."""

# Plays python, pip and tokenwire: writes down how it was called, and does what the scripts need of them.
STAND_IN = """
import json, os, pathlib, sys
name, arguments = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([name, *arguments]) + "\\n")
if arguments[:2] == ["-m", "venv"]:
    folder = pathlib.Path(arguments[2], "bin")
    folder.mkdir(parents=True, exist_ok=True)
    for other in ("python", "tokenwire"):
        (folder / other).unlink(missing_ok=True)
        (folder / other).symlink_to(os.path.realpath(sys.argv[0]))
elif arguments[:4] == ["-m", "pip", "cache", "dir"]:
    print("/home/me/.cache/pip")
elif arguments[:1] == ["-c"]:
    sys.argv = ["-c", *arguments[2:]]
    exec(arguments[1])
elif name == "tokenwire":
    output = pathlib.Path(arguments[[a.partition("=")[0] for a in arguments].index("--output")].partition("=")[2]
                          or arguments[arguments.index("--output") + 1])
    if found := os.environ.get("STAND_IN_DECISION"):
        output.mkdir(parents=True, exist_ok=True)
        (output / "gate.json").write_text(json.dumps({"decision": found}))
        (output / "gate.md").write_text("report")
    raise SystemExit(int(os.environ["STAND_IN_CODE"]))
"""


@cache
def parse(text: str) -> Any:
    """YAML 1.2, in which `on` is a word."""
    return YAML(typ="safe", pure=True).load(text)


def read(path: Path) -> Any:
    return parse(path.read_text())


def complaints(document: Any, schema: str) -> list[str]:
    found = get_builtin_schema(f"vendor.{schema}")
    return [error.message for error in validator_for(found)(found).iter_errors(document)]


def examples() -> list[Any]:
    """The YAML of the page: of GitHub, and of GitLab."""
    return [parse(text) for text in re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)]


GITHUB_EXAMPLE, GITLAB_EXAMPLE = examples()


# --- what the schemas say ---


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_files_keep_to_their_schemas(path: Path) -> None:
    assert complaints(read(path), SCHEMAS[path]) == []


def test_examples_keep_to_their_schemas() -> None:
    assert complaints(GITHUB_EXAMPLE, "github-workflows") == []
    assert complaints(GITLAB_EXAMPLE, "gitlab-ci") == []


def changed(document: Any, way: tuple[str | int, ...], value: object) -> Any:
    """A copy with one value put in, or taken out where it is None."""
    document = copy.deepcopy(document)
    *steps, last = way
    at = document
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return document


@pytest.mark.parametrize(
    ("name", "way", "value"),
    [
        ("gate.yml", ("on", "pull_requests"), {}),
        ("gate.yml", ("jobs", "gate", "runs-on"), None),
        ("gate.yml", ("jobs", "gate", "timeout"), 30),
        ("gate.yml", ("jobs", "gate", "timeout-minutes"), "long"),
        ("gate.yml", ("jobs", "gate", "permissions", "contents"), "reading"),
        ("gate.yml", ("jobs", "gate", "steps", 0, "with"), ["fetch-depth"]),
        ("gate.yml", ("concurrency", "group"), None),
        ("comment.yml", ("jobs", "comment", "permissions", "pull-request"), "write"),
        ("test.yml", ("jobs", "test", "step"), []),
        ("action.yml", ("runs", "using"), "composit"),
        ("action.yml", ("runs", "steps", 1, "shell"), None),
        ("action.yml", ("outputs", "decision", "value"), None),
        ("action.yml", ("inputs", "base", "defaults"), ""),
        ("gitlab-ci.yml", ("gate", "allow_failure", "exit_codes"), "4, or so"),
        ("gitlab-ci.yml", ("gate", "artifacts", "reports", "jnit"), "gate-junit.xml"),
        ("gitlab-ci.yml", ("gate", "interruptible"), "perhaps"),
        ("gitlab-ci.yml", ("gate", "rules", 0, "iff"), "true"),
        ("gitlab-ci.yml", ("gate", "cache", "when"), "sometimes"),
    ],
)
def test_a_wrong_file_is_refused(name: str, way: tuple[str | int, ...], value: object) -> None:
    (path,) = [path for path in SCHEMAS if path.name == name]
    assert complaints(changed(read(path), way, value), SCHEMAS[path])


# --- what we ask of them beyond that ---


def steps_of(document: Any) -> list[dict[str, Any]]:
    """The steps of an action, or of all jobs of a workflow."""
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def careless(document: Any) -> Iterator[str]:
    """What is careless in an action or a workflow."""
    for step in steps_of(document):
        used = step.get("uses", "./")
        if not used.startswith("./") and not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", used):
            yield f"not pinned: {used}"
        if used.startswith("actions/checkout@") and step["with"].get("persist-credentials") is not False:
            yield "leaves the token in the checkout"
        if "${{" in step.get("run", "") + str(step.get("with", {}).get("script", "")):
            yield "an expression becomes part of a script"
    if "jobs" not in document:
        return
    if document.get("permissions") != {}:
        yield "permissions beyond those of its jobs"
    if "concurrency" not in document:
        yield "nothing ends what has been overtaken"
    if {"pull_request_target"} & set(document["on"]):
        yield "a pull request's event with the rights of the branch"
    if "secrets." in json.dumps(document):
        yield "secrets"
    for job in document["jobs"].values():
        if not 0 < job.get("timeout-minutes", 0) <= LONGEST_MINUTES:
            yield "no end"
        writes = [what for what, right in job["permissions"].items() if right != "read"]
        local = [step for step in job["steps"] if "run" in step or step["uses"].startswith(("./", "actions/checkout@"))]
        if writes and local:
            yield f"may write {writes}, and runs what a pull request brings"
        if writes and set(writes) != {"pull-requests"}:
            yield f"may write {writes}"


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_files_are_careful(path: Path) -> None:
    assert list(careless(read(path))) == []


def test_the_example_is_careful_but_for_what_stands_for_a_commit() -> None:
    assert list(careless(GITHUB_EXAMPLE)) == ["not pinned: OWNER/tokenwire@COMMIT"]


@pytest.mark.parametrize(
    ("name", "way", "value"),
    [
        ("gate.yml", ("jobs", "gate", "steps", 0, "uses"), "actions/checkout@v7"),
        ("gate.yml", ("jobs", "gate", "steps", 0, "with", "persist-credentials"), None),
        ("gate.yml", ("jobs", "gate", "timeout-minutes"), None),
        ("gate.yml", ("jobs", "gate", "permissions", "pull-requests"), "write"),
        ("gate.yml", ("on", "pull_request_target"), {}),
        ("gate.yml", ("permissions",), None),
        ("gate.yml", ("concurrency",), None),
        ("comment.yml", ("jobs", "comment", "steps", 0), {"run": "cat gate.md"}),
        ("comment.yml", ("jobs", "comment", "permissions", "contents"), "write"),
        ("comment.yml", ("jobs", "comment", "steps", 1, "with", "script"), "x = '${{ github.event.workflow_run.id }}'"),
        ("test.yml", ("jobs", "test", "env"), {"KEY": "${{ secrets.KEY }}"}),
        ("action.yml", ("runs", "steps", 1, "run"), "echo ${{ inputs.base }}"),
    ],
)
def test_a_careless_file_is_found(name: str, way: tuple[str | int, ...], value: object) -> None:
    (path,) = [path for path in SCHEMAS if path.name == name]
    assert list(careless(changed(read(path), way, value)))


def test_an_action_is_of_one_version_everywhere() -> None:
    texts = [path.read_text() for path in (ACTION, *WORKFLOWS, PAGE)]
    pinned = [
        one
        for text in texts
        for one in re.findall(r"uses: (actions/[^/@]+)[^@]*@(\w+) # (v\d+\.\d+\.\d+)$", text, re.M)
    ]
    assert len(pinned) == sum(text.count("uses: actions/") for text in texts), "each names its version beside the hash"
    assert len({name for name, _, _ in pinned}) == len(set(pinned))


def test_the_action_agrees_with_those_who_use_it() -> None:
    action, text = read(ACTION), ACTION.read_text()
    for name, given in action["inputs"].items():
        assert f"inputs.{name}" in text
        assert f"`{name}`" in PAGE.read_text() or f"{name}:" in PAGE.read_text()
        assert isinstance(given["default"], str)
    used = [step for path in WORKFLOWS for step in steps_of(read(path)) if step.get("uses") == "./"]
    used += [step for step in steps_of(GITHUB_EXAMPLE) if "tokenwire@" in step.get("uses", "")]
    assert len(used) == 2
    for step in used:
        assert set(step["with"]) <= set(action["inputs"])
    (comment,) = [path for path in WORKFLOWS if path.name == "comment.yml"]
    assert read(comment)["on"]["workflow_run"]["workflows"] == [read(comment.with_name("gate.yml"))["name"]]
    download = steps_of(read(comment))[0]["with"]
    assert download["pattern"] == f"{action['inputs']['name']['default']}-comment"
    assert f"MARK = '{MARKER}'" in comment.read_text()


def test_the_page_has_every_exit_code() -> None:
    rows = dict(re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert {name: int(code) for code, name in rows.items()} == CODES
    assert re.search(r"^\| 2 \| \| wrong usage", PAGE.read_text(), re.MULTILINE)


# --- their scripts, run ---


class Done(NamedTuple):
    code: int
    said: str


@dataclass
class Machine:
    """A runner: a folder with a checkout and temporary files, stand-ins on its path, and what was called."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def checkout(self) -> Path:
        return self.folder / "work"

    def calls(self, name: str) -> list[list[str]]:
        """The arguments of every call of `python`, `tokenwire` or `make`, in order."""
        path = self.folder / "calls"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [arguments for called, *arguments in found if called == name]

    def bash(self, script: str, environment: Mapping[str, str]) -> Done:
        """Run a script as GitHub and GitLab do: it ends with the first command that fails."""
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.checkout, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert not list(self.folder.rglob("pwned")), done.stderr
        return Done(done.returncode, done.stdout + done.stderr)

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *arguments],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(tmp_path)
    for name in ("bin", "work", "action", "runner"):
        (tmp_path / name).mkdir()
    (tmp_path / "action" / "requirements.lock").write_text("aiohttp\n")
    stand_in = tmp_path / "bin" / "python"
    stand_in.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n{STAND_IN}")
    stand_in.chmod(0o755)
    (tmp_path / "bin" / "make").symlink_to(stand_in)
    found.environment = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "CALLS": str(tmp_path / "calls"),
        "STAND_IN_CODE": "0",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
    }
    return found


@dataclass
class Job:
    """What a run of the action left."""

    code: int
    said: str
    outputs: dict[str, dict[str, str]]
    summary: str


def outputs_in(text: str) -> dict[str, str]:
    """As GitHub reads the file of outputs. Raises ValueError at what it would refuse."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if match := re.fullmatch(r"([\w-]+)<<(.+)", line):
            value = []
            for inner in lines:
                if inner == match[2]:
                    break
                value.append(inner)
            found[match[1]] = "\n".join(value)
        else:
            name, equals, simple = line.partition("=")
            if not equals:
                raise ValueError(line)
            found[name] = simple
    return found


def filled(text: str, known: Mapping[str, str]) -> str:
    """With its expressions filled in. Only names are known: what is more than a name stays, or is a KeyError."""
    return re.sub(r"\$\{\{ ([\w.-]+) \}\}", lambda match: known[match[1]], text)


def act(
    machine: Machine, inputs: Mapping[str, str] | None = None, code: int = 0, decision: str = "pass", **github: str
) -> Job:
    """Run the scripts of the action in order, with the outputs of those before, until one fails."""
    action = read(ACTION)
    runner = machine.folder / "runner"
    assert set(inputs or {}) <= set(action["inputs"])
    known = {f"inputs.{name}": given["default"] for name, given in action["inputs"].items()}
    known |= {f"inputs.{name}": value for name, value in (inputs or {}).items()}
    known |= {
        "steps.python.outputs.python-path": str(machine.folder / "bin" / "python"),
        "github.event.pull_request.base.sha": github.get("base", ""),
    }
    job = Job(0, "", {}, "")
    for step in steps_of(action):
        if "run" not in step:
            continue
        output, summary = machine.folder / f"output-{step['id']}", machine.folder / "summary"
        output.write_text("")
        summary.unlink(missing_ok=True)
        done = machine.bash(
            step["run"],
            {
                "GITHUB_ACTION_PATH": str(machine.folder / "action"),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_SHA": github.get("sha", ""),
                "GITHUB_STEP_SUMMARY": str(summary),
                "RUNNER_TEMP": str(runner),
                "STAND_IN_CODE": str(code),
                "STAND_IN_DECISION": decision,
                **{name: filled(text, known) for name, text in step.get("env", {}).items()},
            },
        )
        job.code, job.said = done.code, job.said + done.said
        job.outputs[step["id"]] = outputs_in(output.read_text())
        job.summary = summary.read_text() if summary.exists() else ""
        known |= {f"steps.{step['id']}.outputs.{name}": value for name, value in job.outputs[step["id"]].items()}
        if done.code:
            break
    return job


@pytest.mark.parametrize(
    ("code", "decision", "told"),
    [
        (0, "pass", ""),
        (0, "inconclusive", "::warning"),
        (1, "regression", "::error"),
        (1, "inconclusive", "::error"),
        (2, "", "::error"),
        (3, "invalid", "::error"),
        (4, "inconclusive", "::error"),
        (130, "", "::error"),
    ],
)
def test_the_action_hands_on_the_exit_code(machine: Machine, code: int, decision: str, told: str) -> None:
    job = act(machine, {"base": "main"}, code, decision)
    assert job.code == code
    assert job.outputs["gate"] == {"decision": decision, "exit-code": str(code)}
    assert re.findall(r"^::\w+", job.said, re.MULTILINE) == [told] * bool(told)
    assert (f"exit code {code}" in job.summary) == (not decision), "with a report tokenwire writes the summary itself"


def test_the_action_trusts_no_report_but_this_gates(machine: Machine) -> None:
    report = machine.folder / "old"
    report.mkdir()
    (report / "gate.json").write_text('{"decision": "pass"}')
    job = act(machine, {"base": "main", "output": str(report)}, 2, "")
    assert job.outputs["gate"] == {"decision": "", "exit-code": "2"}
    assert act(machine, {"base": "main"}, 0, "").code == 1, "without a report nothing passes"


@pytest.mark.parametrize("decision", ["fine\nexit-code=0", "$(touch pwned)"])
def test_the_action_hands_on_no_decision_it_does_not_know(machine: Machine, decision: str) -> None:
    job = act(machine, {"base": "main"}, 1, decision)
    assert job.outputs["gate"] == {"decision": "", "exit-code": "1"}


def test_the_action_gives_what_it_was_given_and_no_more(machine: Machine) -> None:
    temporary = machine.folder / "runner" / "tokenwire-gate"
    act(machine, {"base": "main"})
    assert machine.calls("tokenwire") == [
        ["gate", f"--results={temporary / 'results'}", f"--output={temporary / 'report'}", "--base=main"]
    ]


@pytest.mark.parametrize("value", [ODD, "--help", "a b", "'"], ids=["odd", "option", "space", "quote"])
def test_the_action_takes_any_value_as_a_value(machine: Machine, value: str) -> None:
    named = ["base", "base-cmd", "head-cmd", "size", "thresholds", "inconclusive", "results", "output", "name"]
    job = act(machine, dict.fromkeys(named, value))
    ((first, *options),) = machine.calls("tokenwire")
    given = dict(option.removeprefix("--").split("=", 1) for option in options)
    assert (job.code, first) == (0, "gate")
    assert set(given) == {*named} - {"name"}
    folder = os.path.realpath(machine.checkout / value)
    assert given == {**dict.fromkeys(given, value), "results": folder, "output": folder}
    assert (job.outputs["places"]["results"], job.outputs["places"]["report"]) == (folder, folder)
    assert set(job.outputs["places"]) == {"source", "results", "report", "cache", "pip", "locks"}


def test_options_of_every_file_exist(machine: Machine) -> None:
    act(machine, dict.fromkeys(["base", "base-cmd", "head-cmd", "size", "thresholds", "inconclusive"], "x"))
    given = [*machine.calls("tokenwire")[0], *shlex.split("\n".join(read(GITLAB)["gate"]["script"]))]
    given += shlex.split("\n".join(GITLAB_EXAMPLE["gate"]["script"]))
    app = typer.Typer()
    app.command()(gate_command)
    known = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    used = {word.partition("=")[0] for word in given if re.match(r"--[a-z-]+(=|$)", word)}
    assert {"--base", "--base-cmd", "--head-cmd", "--output"} <= used <= known


def test_the_action_installs_by_the_lock_file_into_its_own_environment(machine: Machine) -> None:
    job = act(machine, {"base": "main"})
    source, pip = str(machine.folder / "action"), ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    assert job.outputs["places"]["source"] == source
    assert [call for call in machine.calls("python") if call[0] != "-c"] == [
        ["-m", "pip", "cache", "dir"],
        ["-m", "venv", str(machine.folder / "runner" / "tokenwire-venv")],
        [*pip, "--require-hashes", "-r", f"{source}/requirements.lock"],
        [*pip, "--no-deps", "--no-build-isolation", "--editable", source],
    ]


def test_a_checkout_of_tokenwire_measures_with_its_own_driver(machine: Machine) -> None:
    shutil.copy(ROOT / "pyproject.toml", machine.checkout)
    (machine.checkout / "requirements.lock").write_text("websockets\n")
    own = act(machine, {"base": "main"}).outputs["places"]
    assert own["source"] == str(machine.checkout)
    (machine.checkout / "requirements.lock").write_text("websockets==17\n")
    other = act(machine, {"base": "main"}).outputs["places"]
    assert own["locks"] != other["locks"], "another lock file is another cache"


def test_the_cache_is_where_tokenwire_looks(machine: Machine) -> None:
    assert act(machine, {"base": "main"}).outputs["places"]["cache"] == str(machine.folder / "home/.cache/tokenwire")
    for name, value, expected in (
        ("XDG_CACHE_HOME", "/some/cache", "/some/cache/tokenwire"),
        ("TOKENWIRE_CACHE", "/own", "/own"),
    ):
        machine.environment[name] = value
        assert act(machine, {"base": "main"}).outputs["places"]["cache"] == expected


def test_a_pull_request_is_compared_with_what_it_is_merged_into(machine: Machine) -> None:
    machine.git("init", "-q", "-b", "main")
    commits = []
    for what in ("older", "newer"):
        machine.git("commit", "-q", "--allow-empty", "-m", what)
        commits.append(machine.git("rev-parse", "HEAD"))
    machine.git("checkout", "-q", "-b", "change", commits[0])
    machine.git("commit", "-q", "--allow-empty", "-m", "change")
    change = machine.git("rev-parse", "HEAD")
    machine.git("checkout", "-q", "main")
    machine.git("merge", "-q", "--no-ff", "-m", "merge", "change")
    merge = machine.git("rev-parse", "HEAD")

    def base(**github: str) -> str:
        act(machine, **github)
        return machine.calls("tokenwire")[-1][-1]

    # The event still has the older one, but what is checked out was merged into the newer.
    assert base(base=commits[0], sha=merge) == f"--base={commits[1]}"
    # Not where something else was checked out, be it a merge.
    assert base(base=commits[0], sha=change) == f"--base={commits[0]}"
    machine.git("checkout", "-q", "change")
    assert base(base=commits[0], sha=merge) == f"--base={commits[0]}"
    # Neither where others are compared, nor where a base was named.
    act(machine, {"base-cmd": "old", "head-cmd": "new"}, base=commits[0], sha=merge)
    assert machine.calls("tokenwire")[-1][-2:] == ["--base-cmd=old", "--head-cmd=new"]

    before = len(machine.calls("tokenwire"))
    job = act(machine, base="0123456789" * 4, sha=merge)
    assert (job.code, job.outputs["gate"]) == (2, {"exit-code": "2"})
    assert "fetch-depth: 2" in job.said
    assert len(machine.calls("tokenwire")) == before


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_test_workflow_runs_what_a_change_must_pass(machine: Machine, code: int) -> None:
    (machine.checkout / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", machine.checkout / ".ci")
    (machine.folder / "bin" / "make").unlink()
    make = machine.folder / "bin" / "make"
    make.write_text(
        '#!/bin/bash\necho "[\\"make\\", \\"$1\\"]" >> "$CALLS"\n[ "$1" != test ] || exit "$STAND_IN_CODE"\n'
    )
    make.chmod(0o755)
    (script,) = [step["run"] for step in steps_of(read(ROOT / ".github/workflows/test.yml")) if "run" in step]
    assert machine.bash(script, {"STAND_IN_CODE": str(code)}).code == code
    assert machine.calls("make") == [["lint"], ["test"]]


@pytest.fixture
def gitlab(machine: Machine) -> Callable[..., int]:
    """Run the job of GitLab in a checkout, with its variables; return its exit code."""
    job = read(GITLAB)["gate"]
    machine.git("init", "-q", "-b", "main")

    def run(code: int = 0, decision: str = "pass", **variables: str) -> int:
        shutil.rmtree(machine.checkout / ".cache", ignore_errors=True)
        given = {
            name: text.replace("$CI_PROJECT_DIR", str(machine.checkout)) for name, text in job["variables"].items()
        }
        environment = {**given, **variables, "STAND_IN_CODE": str(code), "STAND_IN_DECISION": decision}
        return machine.bash("\n".join([*job["before_script"], *job["script"]]), environment).code

    return run


@pytest.mark.parametrize(
    ("code", "decision"), [(0, "pass"), (1, "regression"), (2, ""), (3, "invalid"), (4, "inconclusive")]
)
def test_gitlab_sees_the_exit_code(gitlab: Callable[..., int], code: int, decision: str) -> None:
    assert gitlab(code, decision, CI_MERGE_REQUEST_DIFF_BASE_SHA="a") == code
    allowed = read(GITLAB)["gate"]["allow_failure"]["exit_codes"]
    assert (code == allowed) == (decision == "inconclusive")


def test_gitlab_compares_with_the_right_base(gitlab: Callable[..., int], machine: Machine) -> None:
    zero = "0" * 40
    for variables, expected in (
        ({"CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "merged", "CI_MERGE_REQUEST_DIFF_BASE_SHA": "began"}, "merged"),
        ({"CI_MERGE_REQUEST_TARGET_BRANCH_SHA": "", "CI_MERGE_REQUEST_DIFF_BASE_SHA": "began"}, "began"),
        ({"CI_MERGE_REQUEST_DIFF_BASE_SHA": ODD}, ODD),
        ({}, "before"),
    ):
        assert gitlab(**{"CI_COMMIT_BEFORE_SHA": zero if variables else "before", **variables}) == 0
        assert machine.calls("tokenwire")[-1] == ["gate", "--base", expected, "--output", "results/gate"]


def test_gitlab_keeps_what_the_gate_writes_and_nothing_else_of_it_gets_into_head(
    gitlab: Callable[..., int], machine: Machine
) -> None:
    job = read(GITLAB)["gate"]
    shutil.copy(ROOT / ".gitignore", machine.checkout)
    assert gitlab(CI_COMMIT_BEFORE_SHA="before") == 0
    assert (machine.checkout / "results/gate/gate.json").exists()
    assert machine.git("status", "--porcelain", "--untracked-files=all") == "?? .gitignore"
    (kept,) = job["artifacts"]["paths"]
    assert {Path(path).parent for path in job["artifacts"]["reports"].values()} == {Path(kept) / "gate"}
    cache = {job["variables"][name] for name in ("PIP_CACHE_DIR", "TOKENWIRE_CACHE")}
    assert cache == {f"$CI_PROJECT_DIR/{path.removesuffix('/environments')}" for path in job["cache"]["paths"]}


# --- the comment ---

HARNESS = """
const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const done = [];
const call = (name, answer) => async (options) => { done.push([name, options]); return answer; };
const pulls = { list: async () => given.pulls };
const issues = {
  listComments: async () => given.comments,
  createComment: call('create'), updateComment: call('update'),
};
const github = {
  rest: { pulls, issues },
  paginate: async (what, options) => { done.push(['paginate', options]); return what(); },
};
const core = { notice: (text) => done.push(['notice', text]) };
const context = { repo: { owner: 'us', repo: 'tokenwire' }, payload: { workflow_run: given.run } };
const Body = Object.getPrototypeOf(async function () {}).constructor;
new Body('require', 'github', 'core', 'context', given.script)(require, github, core, context)
  .then(() => console.log(JSON.stringify(done)));
"""


def post(report: Path, **given: Any) -> list[tuple[str, Any]]:
    """Run the script of the comment on what GitHub is to answer; return what it did there."""
    (step,) = [one for one in steps_of(read(ROOT / ".github/workflows/comment.yml")) if "script" in one["with"]]
    told = {
        "script": step["with"]["script"],
        "run": {"head_sha": "abc", "head_branch": "change", "html_url": "https://example.com/1",
                "head_repository": {"owner": {"login": "them"}}},
        "pulls": [{"number": 6, "head": {"sha": "else"}}, {"number": 7, "head": {"sha": "abc"}}],
        "comments": [],
        **given,
    }  # fmt: skip
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", HARNESS], input=json.dumps(told), env={"REPORT": str(report)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(name, options) for name, options in json.loads(done.stdout) if name != "paginate"]


needs_node = pytest.mark.skipif(NODE is None, reason="GitHub runs this script by Node")


@needs_node
def test_the_comment_goes_to_the_pull_request_that_was_measured(tmp_path: Path) -> None:
    report = tmp_path / "gate.md"
    report.write_text(f"{MARKER}\n### Slower, @everyone\npull request 6, $(touch pwned) `${{x}}`\n")
    others = [
        {"id": 1, "user": {"login": "mallory"}, "body": MARKER},
        {"id": 2, "user": {"login": "github-actions[bot]"}, "body": f"about {MARKER}"},
        {"id": 3, "user": None, "body": None},
    ]
    ((name, options),) = post(report, comments=others)
    assert (name, options["issue_number"], options["owner"], options["repo"]) == ("create", 7, "us", "tokenwire")
    first, told, _, *rest = options["body"].split("\n")
    assert first == MARKER
    assert "https://example.com/1" in told
    assert "@everyone" not in options["body"]
    assert rest[2] == "pull request 6, $(touch pwned) `${x}`"

    mine = {"id": 4, "user": {"login": "github-actions[bot]"}, "body": options["body"]}
    ((name, options),) = post(report, comments=[*others, mine])
    assert (name, options["comment_id"]) == ("update", 4)


@needs_node
def test_nothing_is_posted_where_it_is_not_sure_where_it_belongs(tmp_path: Path) -> None:
    report = tmp_path / "gate.md"
    report.write_text("fine")
    one = {"number": 7, "head": {"sha": "abc"}}
    for given in ({"pulls": []}, {"pulls": [one, {**one, "number": 8}]}, {"run": {"head_repository": None}}):
        assert [name for name, _ in post(report, **given)] == ["notice"]


@needs_node
def test_nothing_but_a_text_of_fair_length_is_posted(tmp_path: Path) -> None:
    secret, link, folder, huge, long = (tmp_path / name for name in ("secret", "link", "folder", "huge", "long"))
    secret.write_text("of the runner")
    link.symlink_to(secret)
    folder.mkdir()
    huge.write_text("x" * 1_000_001)
    for report in (tmp_path / "missing", link, folder, huge):
        assert [name for name, _ in post(report)] == ["notice"]
    long.write_text("x" * 70_000)
    ((name, options),) = post(long)
    assert name == "create"
    assert 60_000 < len(options["body"]) < 65_536
