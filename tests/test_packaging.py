"""What is promised about installing: bounds that can be tested, types for users, scripts that are checked.

`scripts/test_wheel` builds, installs and runs; `scripts/test_versions` tests the oldest releases. Here is what needs no
network.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

import streamloss

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def script(name: str) -> Any:
    """A program of scripts/ as a module."""
    loader = SourceFileLoader(name, str(ROOT / "scripts" / name))
    spec = spec_from_loader(name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


versions = script("test_versions")


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]], ids=str)
def test_every_dependency_has_a_lower_bound(extra: str | None) -> None:
    found = versions.requirements(PROJECT, extra)
    assert found
    for text in found:
        assert re.fullmatch(r"[\w.-]+(\[[\w.,-]+\])?==\d[\d.]*(;.*)?", versions.pinned(text))


def test_an_extra_of_extras_has_their_requirements() -> None:
    dev = versions.requirements(PROJECT, "dev")
    assert set(versions.requirements(PROJECT, "report")) < set(dev) and not any("streamloss" in text for text in dev)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a>=1", "a==1"),
        ("a-b[c,d]>=1.2", "a-b[c,d]==1.2"),
        ("a>=1.2,<3", "a==1.2"),
        ("a>=1;python_version<'3.12'", "a==1;python_version<'3.12'"),
    ],
)
def test_the_lower_bound(text: str, expected: str) -> None:
    assert versions.pinned(text) == expected


@pytest.mark.parametrize("text", ["a", "a<3", "a==1"])
def test_no_lower_bound(text: str) -> None:
    with pytest.raises(SystemExit, match="no lower bound"):
        versions.pinned(text)


def test_the_quick_tests_are_there() -> None:
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in versions.QUICK)


def test_wrong_usage_of_test_versions() -> None:
    done = subprocess.run([ROOT / "scripts" / "test_versions", "all"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "oldest|newest" in done.stderr and not (ROOT / ".venv-all").exists()


def test_types_are_for_users() -> None:
    assert (Path(streamloss.__file__).parent / "py.typed").is_file()


def test_the_version_is_said_once() -> None:
    assert streamloss.__version__ == version("streamloss") and "version" in PROJECT["dynamic"]


def test_every_program_is_linted() -> None:
    """ruff looks for .py; programs without it are named in scripts/test."""
    linted = re.search(r"programs=\(scripts/\{(.*)\}\)", (ROOT / "scripts" / "test").read_text(encoding="utf-8"))
    assert linted
    python = re.compile(rb"#!.*python")
    found = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and python.match(path.read_bytes())}
    assert {name for name in found if "." not in name} == set(linted[1].split(","))
