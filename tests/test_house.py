"""The house keeps its order: layers look down only, every outside library has one home, starting is cheap, all is documented.

Everything here is read off the sources, so a new file is judged as soon as it is there.
"""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import oracle
import pytest

import streamloss
from streamloss.quantities import QUANTITIES, SOURCES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "streamloss"
LIMIT = 450  # lines of a file

# From the ground up. A layer may use itself and what stands below; layers of one line do not know one another.
FLOORS = (
    ("errors", "jit"),
    (
        "options",
        "ieee",
        "terms",
        "files",
        "extents",
        "memory",
        "growing",
    ),  # terms: the working that calc shows, in plain Python
    ("quantities",),
    ("digits", "conventions", "temperature"),
    ("slices",),
    ("slicing", "coherence"),
    ("state", "comparison"),
    ("kernels", "reading"),
    ("running", "reporting"),
    ("api", "functions", "writing"),
    ("cli",),
)
FLOOR = {layer: height for height, layers in enumerate(FLOORS) for layer in layers}

# Each outside library and where it lives. Numba has three rooms in one house: `jit` chooses the options, `ieee` and `kernels`
# are written in its language (intrinsics and `prange`); nobody else knows that anything is compiled.
HOMES: dict[str, tuple[str, ...]] = {
    "pyarrow": ("reading", "writing"),
    "click": ("cli",),
    "numba": ("jit", "ieee", "kernels"),
    "llvmlite": ("ieee",),
    "numpy": (
        *(
            "ieee",
            "kernels",
            "digits",
            "slices",
            "slicing",
            "growing",
            "coherence",
            "state",
            "comparison",
            "reading",
            "running",
            "functions",
            "api",
            "writing",
        ),
        *("reporting.figures", "reporting.metrics"),
    ),
    "rich": ("reporting.tables", "reporting.terminal", "reporting.schema", "reporting.batch", "cli.progress", "cli.jobs"),
    "dask": ("running.dask",),
    "distributed": ("running.dask",),
    "matplotlib": ("reporting.plots",),
    "jinja2": ("reporting.webpage",),
}
# What may be taken from Numba outside `jit`: the words of the language, none of them an option.
NUMBA_WORDS = {"prange", "types", "extending", "intrinsic", "cuda"}
# What it takes to teach Numba the types of `ieee.vectors`.
NUMBA_WORDS |= {"core", "typing", "templates", "signature", "AbstractTemplate", "infer_global"}
NUMBA_WORDS |= {"lower_builtin", "models", "register_model", "cgutils"}
LAZY = {"numba", "llvmlite", "numpy", "pyarrow", "rich", "matplotlib", "jinja2"}


class Import(NamedTuple):
    """One imported module, as a dotted name, with the names taken from it and whether only type checkers see it."""

    module: str
    names: tuple[str, ...]
    typing: bool


def name_of(path: Path) -> str:
    """Dotted name inside the package: 'reading.source'; '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str) -> Iterator[Import]:
    """Every import of a module, those inside functions too."""
    guarded = {
        id(node)
        for test in ast.walk(TREES[name])
        if isinstance(test, ast.If) and ast.unparse(test.test) == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, (), id(node) in guarded)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are written in full"
            yield Import(node.module or "", tuple(alias.name for alias in node.names), id(node) in guarded)


def inside(name: str, typing: bool = True) -> Iterator[str]:
    """The modules of the package that a module imports; '' is the package itself."""
    for found in imports(name):
        if found.typing and not typing:
            continue
        root, _, rest = found.module.partition(".")
        if root != "streamloss":
            continue
        for taken in found.names or ("",):
            submodule = ".".join(part for part in (rest, taken) if part)
            yield submodule if submodule in FILES else rest


def outside(name: str) -> set[str]:
    roots = {found.module.partition(".")[0] for found in imports(name)}
    return roots - set(sys.stdlib_module_names) - {"streamloss"}


def lives_in(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or name.startswith(home + ".") for home in homes)


each_module = pytest.mark.parametrize("name", [name for name in FILES if name], ids=str)


@each_module
def test_a_layer_knows_only_what_stands_below(name: str) -> None:
    if name == "__main__":
        assert list(inside(name)) == ["cli.main"]
        return
    layer = name.partition(".")[0]
    assert layer in FLOOR, f"{layer} has no floor: where does it stand?"
    for used in inside(name):
        below = used.partition(".")[0]
        if below:
            assert below == layer or FLOOR[below] < FLOOR[layer], f"{name} imports {used}"


def test_only_the_version_comes_from_the_top() -> None:
    for name in FILES:
        for found in imports(name):
            if found.module == "streamloss":
                assert all(taken == "__version__" or taken in FILES for taken in found.names), name


def test_terms_are_for_calc_alone() -> None:
    users = {name for name in FILES if "terms" in inside(name)}
    assert users == {"cli.calc", "reporting.terminal"}  # the one computes them, the other draws them


def test_no_circle() -> None:
    graph = {name: set(inside(name, typing=False)) - {""} for name in FILES if name}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@each_module
def test_every_library_has_one_home(name: str) -> None:
    for library in outside(name):
        assert library in HOMES, f"{name} imports {library}, which has no home"
        assert lives_in(name, HOMES[library]), f"{name} imports {library}, which lives in {HOMES[library]}"


@each_module
def test_numba_options_are_chosen_in_one_place(name: str) -> None:
    if name == "jit":
        return
    for found in imports(name):
        if found.module.partition(".")[0] == "numba":
            words = {*found.module.split(".")[1:], *found.names}
            assert words <= NUMBA_WORDS, f"{name} takes {words - NUMBA_WORDS} from Numba"
            assert found.names, f"{name} imports {found.module} whole"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                word = ast.unparse(decorator)
                assert not re.search(r"\b(n?jit|vectorize|guvectorize|stencil)\b", word), f"{name}.{node.name}: @{word}"


def test_no_fast_math_anywhere() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.keyword) and node.arg == "fastmath"), name


@pytest.mark.parametrize("name", FILES, ids=lambda name: name or "streamloss")
def test_a_module_says_what_it_is_for_and_stays_readable(name: str) -> None:
    assert ast.get_docstring(TREES[name])
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LIMIT, f"{lines} lines: two ideas?"


@pytest.mark.parametrize("name", streamloss.__all__)
def test_public_names_are_documented(name: str) -> None:
    public = getattr(streamloss, name)
    assert inspect.getdoc(public)
    if inspect.isclass(public) and not issubclass(public, Exception):
        for attribute, value in vars(public).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, classmethod | property)):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        streamloss.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", ["streamloss", "streamloss.cli.main"])
def test_starting_is_cheap(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True, timeout=60).stdout
    assert not LAZY & {name.partition(".")[0] for name in loaded.split()}


def test_no_path_of_anyone_s_machine() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    here = [re.escape(str(p)) for p in (ROOT, Path(sys.prefix)) if len(p.parts) > 2]
    private = re.compile("|".join([r"(?<![\w:/.])/(?:home|Users|work|root)/\w", *here]).encode())
    for file in filter(Path.is_file, (ROOT / name for name in listed.decode().split("\0") if name)):
        found = private.search(file.read_bytes())
        assert not found, f"{file.relative_to(ROOT)}: {found and found.group()!r}"


# One row for each kind of task, so that together they have every quantity.
TASKS: tuple[tuple[dict[str, object], dict[str, object]], ...] = (
    ({"prob": 0.75, "label": 0.5}, {"focal_gamma": 2.0}),
    ({"logprob": -1.5, "bytes": 3}, {}),
    ({"logits": [0.0, 1.0, 2.0], "label": 2}, {}),
    ({"probs": [0.2, 0.2, 0.6], "target_probs": [0.8, 0.1, 0.1], "label": 0}, {}),
)


def test_every_quantity_has_an_oracle() -> None:
    known: set[str] = set()
    for row, options in TASKS:
        known |= set(oracle.evaluate([row], **options))
        binary = "prob" in row
        other = dict(row, label=1 if binary else 1 - int(row["label"] == 1)) if "label" in row else row  # type: ignore[call-overload]
        known |= set(oracle.evaluate([row, other], **options))
    assert set(QUANTITIES) <= known


def test_the_table_of_quantities_is_whole() -> None:
    slots = [q.slot for q in QUANTITIES.values() if q.slot is not None]
    assert len(slots) == len(set(slots))
    assert set(SOURCES) == {key for key, q in QUANTITIES.items() if q.slot is None}
    for key, q in QUANTITIES.items():
        assert q.key == key
        assert q.title and q.unit in ("", "nat")
        assert q.needs
