"""What the gate compares: copies of a revision and of the working tree, and their environments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.gate import sides
from bench.gate.sides import LOCK, SideError, repository, same_program, trees


def git(where: Path, *words: str) -> str:
    known = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *known, "-C", str(where), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the shape of this one, one commit, and a cache of its own."""
    monkeypatch.setenv("TOKENWIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sides, "_install", installed_in(tmp_path / "installed"))
    top = tmp_path / "checkout"
    for name in ("servers", "bench", "scenarios"):
        (top / name).mkdir(parents=True)
        (top / name / "__init__.py").write_text('"""A package."""\n')
    (top / LOCK).write_text("")
    (top / ".gitignore").write_text("results/\n")
    git(top, "init", "--quiet")
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "The first | with a <mark>")
    return top


def installed_in(log: Path) -> Callable[[Path, Path, str], None]:
    def install(folder: Path, lock: Path, name: str) -> None:
        folder.mkdir(parents=True)
        with log.open("a") as file:
            file.write(f"{name} {lock.read_text()!r}\n")

    return install


def silent(_: str) -> None:
    """Tell nobody."""


def test_base_is_the_revision_and_head_the_working_tree(checkout: Path) -> None:
    (checkout / "servers" / "__init__.py").write_text("CHANGED = True\n")
    (checkout / "servers" / "new.py").write_text("NEW = True\n")
    (checkout / "bench" / "__init__.py").unlink()
    (checkout / "results").mkdir()
    (checkout / "results" / "large").write_text("ignored")
    with trees(checkout, "HEAD", silent) as (base, head):
        assert (base.tree / "servers" / "__init__.py").read_text() == '"""A package."""\n'
        assert not (base.tree / "servers" / "new.py").exists()
        assert (head.tree / "servers" / "__init__.py").read_text() == "CHANGED = True\n"
        assert (head.tree / "servers" / "new.py").exists()
        assert not (head.tree / "bench" / "__init__.py").exists()
        assert not (head.tree / "results").exists()
        assert base.side.revision == head.side.revision == git(checkout, "rev-parse", "HEAD")
        assert (base.side.changed, head.side.changed) == (False, True)
        assert base.side.what.endswith("The first | with a <mark>")
        (checkout / "servers" / "new.py").write_text("NEW = 'edited while it is measured'\n")
        assert (head.tree / "servers" / "new.py").read_text() == "NEW = True\n"
    assert not head.tree.exists(), "the copy is gone"
    assert base.tree.exists(), "kept for the next gate"


def test_same_lock_same_environment_and_another_for_another(checkout: Path, tmp_path: Path) -> None:
    with trees(checkout, "HEAD", silent) as (base, head):
        assert base.python == head.python
    (checkout / LOCK).write_text("# another\n")
    told: list[str] = []
    with trees(checkout, "HEAD", told.append) as (base, head):
        assert base.python != head.python
        assert base.side.lock != head.side.lock
    with trees(checkout, "HEAD", told.append):
        pass
    assert (tmp_path / "installed").read_text().splitlines() == ["base ''", "head '# another\\n'"], "once each"
    assert len(told) == 1
    assert "head" in told[0]


def test_an_environment_that_was_not_finished_is_made_anew(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sides._install

    def broken(folder: Path, lock: Path, name: str) -> None:
        real(folder, lock, name)
        raise SideError("no")

    monkeypatch.setattr(sides, "_install", broken)
    with pytest.raises(SideError), trees(checkout, "HEAD", silent):
        pass
    made: list[Path] = []
    monkeypatch.setattr(sides, "_install", lambda folder, _lock, _name: made.append(folder))
    with trees(checkout, "HEAD", silent) as (base, _):
        assert made == [base.python.parents[1]]


def test_a_real_environment(tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    lock.write_text("")
    sides._install(tmp_path / "environment", lock, "base")
    python = tmp_path / "environment" / "bin" / "python"
    done = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == tmp_path / "environment"


def test_what_cannot_be_installed_is_one_line(tmp_path: Path) -> None:
    lock = tmp_path / LOCK
    lock.write_text("name with no sense\n")
    with pytest.raises(
        SideError, match=r"^head's environment cannot be made from its requirements\.lock: .+"
    ) as raised:
        sides._install(tmp_path / "environment", lock, "head")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"README.md": "Words.\n"}, True),
        ({"tests/test_a.py": "assert True\n"}, True),
        ({"servers/__init__.py": '# A comment.\n"""A package."""\n'}, True),
        ({"servers/__init__.py": '"""Another docstring."""\n'}, False),
        ({"servers/data.json": "{}"}, False),
        ({"bench/__init__.py": "X = 1\n"}, False),
        ({"scenarios/gate.toml": "title = 'x'\n"}, False),
        ({LOCK: "# a comment\n"}, False),
        ({"servers/__init__.py": "not python (\n"}, False),
    ],
)
def test_whether_anything_that_is_measured_differs(checkout: Path, change: dict[str, str], same: bool) -> None:
    for name, text in change.items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(text)
    with trees(checkout, "HEAD", silent) as (base, head):
        assert same_program(base.tree, head.tree) is same


@pytest.mark.parametrize("ref", ["no-such", "--help", "HEAD:servers", ""])
def test_no_such_revision(checkout: Path, ref: str) -> None:
    with pytest.raises(SideError, match="no such revision") as raised, trees(checkout, ref, silent):
        pass
    assert "\n" not in str(raised.value)


def test_a_revision_that_has_nothing_to_run(checkout: Path) -> None:
    git(checkout, "rm", "--quiet", "-r", "servers")
    git(checkout, "commit", "--quiet", "-m", "Without servers")
    with pytest.raises(SideError, match=r"--base HEAD: that revision has no servers"), trees(checkout, "HEAD", silent):
        pass


def test_a_checkout_of_something_else(tmp_path: Path, checkout: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SideError, match="git rev-parse: "):
        repository(other)
    git(other, "init", "--quiet")
    with pytest.raises(SideError, match="--base-cmd"):
        repository(other)
    assert repository(checkout / "servers") == checkout


def test_a_cache_in_the_checkout_is_not_copied(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENWIRE_CACHE", str(checkout / "kept"))
    for _ in range(2):
        with trees(checkout, "HEAD", silent) as (_, head):
            assert (head.tree / "servers").exists()
            assert not (head.tree / "kept").exists()


def test_trees_of_long_ago_are_removed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "KEPT_TREES", 2)
    for number in range(4):
        git(checkout, "commit", "--quiet", "--allow-empty", "-m", f"Number {number}")
        with trees(checkout, "HEAD", silent) as (base, _):
            newest = base.tree
    kept = list((sides.cache() / "trees").iterdir())
    assert len(kept) == 3
    assert newest in kept


def test_the_version_of_python_is_part_of_an_environment(checkout: Path) -> None:
    with trees(checkout, "HEAD", silent) as (base, _):
        assert sys.version.split()[0] in base.python.parents[1].name
