"""The import arrows of the package, read from its sources, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Modules and packages of core, the faces first. Each may import what stands on a later line.
_LAYERS = (
    "__main__",
    "cli",
    "autoload api",
    "adapter",
    "frameworks",
    "calls",
    "isolation",
    "monitor",
    "enforcement",
    "containment",
    "config",
    "spawn",
    "records",
    "place",
    "cgroup",
    "scope",
    "units errors",
    "_native",
)
_RANK = {name: rank for rank, line in enumerate(_LAYERS) for name in line.split()}

_FRAMEWORK = re.compile(r"(langchain|langgraph|deepagents|autogen|crewai)(_\w+)?(\.|$)")
#: What adapters may import of others at module level.
_HELPERS = {"wrapt", "typing_extensions"}
#: The one module of core that adapters import.
_STABLE = "agentcgroup.adapter"

#: A file of cgroupfs.
_CGROUPFS = re.compile(r"(.*/)?(cgroup|cpu|cpuset|io|memory|pids)\.[a-z_.]+")
#: A child that puts itself into its cgroup does so between fork and exec, with a bare write.
_JOINING = {
    ("agentcgroup.spawn.placement", "cgroup.procs"),
    ("agentcgroup.spawn.multiprocess", "/cgroup.procs"),
    ("agentcgroup.isolation.fork_server", "cgroup.procs"),
}


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    importer: str
    target: str
    in_function: bool


def _sources(folder: str, package: str) -> dict[str, ast.Module]:
    """Parse what is in one of the root folders, by module name."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        name = ".".join((package, *(part for part in parts if part != "__init__")))
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    assert found
    return found


CORE = _sources("core", "agentcgroup")
ADAPTERS = _sources("adapters", "agentcgroup.adapters")
BPF = _sources("bpf", "agentcgroup.bpf")
_MODULES = {*CORE, *ADAPTERS, *BPF, "agentcgroup._native"}


def _imports(sources: Mapping[str, ast.Module]) -> list[Import]:
    """List what is imported when the code runs: what stands under TYPE_CHECKING is not."""
    return [
        Import(name, target, in_function)
        for name, tree in sources.items()
        for target, in_function in _targets(tree, in_function=False)
    ]


def _targets(node: ast.AST, *, in_function: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, in_function
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        assert node.module is not None
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in _MODULES else node.module, in_function
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.orelse:
            yield from _targets(child, in_function=in_function)
    else:
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from _targets(child, in_function=inside)


def _is_ours(target: str) -> bool:
    return target.split(".")[0] == "agentcgroup"


def _layer(module: str) -> str:
    """Return the part of core that a module belongs to; "" is the package's own face."""
    return [*module.split("."), ""][1]


def test_every_part_of_core_has_its_place() -> None:
    assert {_layer(name) for name in CORE} - {*_RANK, ""} == set()


#: The face of the package is for those outside, and for autoload.
_EXCEPTIONS = {("autoload", ""), ("isolation", "calls")}


def test_core_imports_only_what_stands_below() -> None:
    """Also within functions."""
    wrong = [
        one
        for one in _imports(CORE)
        if _is_ours(one.target)
        and one.target not in BPF  # see below
        and _layer(one.importer) != _layer(one.target)
        and (_layer(one.importer), _layer(one.target)) not in _EXCEPTIONS
        and _RANK.get(_layer(one.importer), -1) >= _RANK.get(_layer(one.target), -1)
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    """Inside the packages of core, where the layers say nothing."""
    graph: dict[str, set[str]] = {}
    for one in _imports(CORE):
        if one.target in CORE and _layer(one.importer) == _layer(one.target):
            graph.setdefault(one.importer, set()).add(one.target)
    assert graph
    TopologicalSorter(graph).prepare()  # raises CycleError


#: Where BPF is one of several sources, and where it is reported on.
_KNOW_BPF = {"agentcgroup.monitor.bpf", "agentcgroup.monitor.bcc", "agentcgroup.cli.doctor"}


def test_core_knows_no_adapter_no_bpf_and_no_framework() -> None:
    wrong = [
        one
        for one in _imports(CORE)
        if one.target in ADAPTERS
        or (one.target in BPF and one.importer not in _KNOW_BPF)
        or _FRAMEWORK.match(one.target)
    ]
    assert wrong == []


def test_adapters_import_the_stable_module_and_a_framework_only_once_it_is_used() -> None:
    """No other module of core, no other adapter, and no framework at module level."""
    wrong = []
    for one in _imports(ADAPTERS):
        top = one.target.split(".")[0]
        own = ".".join(one.importer.split(".")[:3])
        if _is_ours(one.target):
            good = one.target in (_STABLE, own) or one.target.startswith(own + ".")
        else:
            good = one.in_function or top in sys.stdlib_module_names or top in _HELPERS
        if not good:
            wrong.append(one)
    assert wrong == []


def test_bpf_imports_nothing_of_core_but_units_and_errors() -> None:
    allowed = {"agentcgroup.units", "agentcgroup.errors", *BPF}
    wrong = [one for one in _imports(BPF) if _is_ours(one.target) and one.target not in allowed]
    assert wrong == []


def test_only_the_cgroup_package_names_files_of_cgroupfs() -> None:
    """Everybody else has a `Cgroup`; documentation may of course name them."""
    found = {
        (name, node.value)
        for name, tree in {**CORE, **ADAPTERS}.items()
        if _layer(name) not in ("cgroup", "place")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _CGROUPFS.fullmatch(node.value)
    }
    assert found == _JOINING


def _loaded(code: str, *names: str) -> set[str]:
    """Return which of the named top-level packages a program has imported at its end."""
    told = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(names) & set(done.stdout.split())


_FRAMEWORKS = ("langchain", "langchain_core", "langgraph", "autogen_core", "autogen_agentchat")


def test_importing_the_package_imports_nothing_of_others() -> None:
    """`import agentcgroup` is in every agent's start, and in every child that moves itself."""
    others = ("pydantic", "typer", "rich", "wrapt", "jeepney", "asyncio", "crewai", *_FRAMEWORKS)
    assert _loaded("import agentcgroup", *others) == set()


def test_a_session_loads_no_face_and_no_bus() -> None:
    """`agentcgroup exec` pays for it at each command; only where systemd is asked is it loaded."""
    code = "import agentcgroup\nagentcgroup.register(config={'cgroup_root': '/tmp'})"
    assert _loaded(code, "pydantic") == {"pydantic"}  # it has read the configuration indeed
    assert _loaded(code, "typer", "rich", "jeepney", "cloudpickle") == set()


def test_registering_imports_no_framework_and_no_face() -> None:
    """The hooks wait for the program to import what it uses."""
    code = "import agentcgroup; agentcgroup.register(); agentcgroup.unregister()"
    assert _loaded(code, "wrapt") == {"wrapt"}  # it has registered indeed
    assert _loaded(code, "typer", "rich", "crewai", *_FRAMEWORKS) == set()


def test_a_program_pays_for_the_adapter_it_uses() -> None:
    """The others stay a name to wait for: register() is to cost less than 5 ms."""
    code = "import agentcgroup; agentcgroup.register(); import langchain_core.tools"
    told = f"{code}\nimport sys; print(*(name for name in sys.modules if name.endswith('.seams')))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["agentcgroup.adapters.langchain.seams"]


@pytest.mark.parametrize(
    ("code", "targets"),
    [
        ("import a.b\ndef f():\n    import c", [("a.b", False), ("c", True)]),
        ("from agentcgroup.cgroup import files, find", [("agentcgroup.cgroup.files", False)] * 1),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [("b", False)]),
    ],
)
def test_imports_are_read_right(code: str, targets: list[tuple[str, bool]]) -> None:
    assert list(_targets(ast.parse(code), in_function=False))[: len(targets)] == targets
