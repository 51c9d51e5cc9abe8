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

import agentcgroup

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]

#: Modules and packages of core, the faces first, as docs/architecture.md has them for its readers.
#: Each imports only what stands on a later line.
_PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_LAYERS = re.search(r"^```layers\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)
assert _LAYERS is not None
_RANK = {
    name: rank
    for rank, line in enumerate(_LAYERS[1].splitlines())
    for name in re.split(r" {2,}", line)[0].split(", ")
}

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
    ("agentcgroup.spawn.multiprocessing_daemons", "/cgroup.procs"),
    ("agentcgroup.isolation.fork_server", "cgroup.procs"),
}


@dataclass(frozen=True)
class Import:
    """One import statement's target, and where it stands."""

    importer: str
    target: str
    in_function: bool = False
    #: Stands under TYPE_CHECKING.
    for_types: bool = False
    #: By a string: import_module("..."), or code for another interpreter.
    by_name: bool = False


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
    """List what is imported when the code runs."""
    return [one for one in _all_imports(sources) if not one.for_types and not one.by_name]


def _all_imports(sources: Mapping[str, ast.Module]) -> list[Import]:
    """List all imports: those under TYPE_CHECKING and those by a module's name, too."""
    return [
        found
        for name, tree in sources.items()
        for found in (*_statements(name, tree), *_names(name, tree))
    ]


def _statements(
    name: str, node: ast.AST, *, in_function: bool = False, for_types: bool = False
) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(name, alias.name, in_function, for_types)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative import"
        assert node.module is not None
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            target = whole if whole in _MODULES else node.module
            yield Import(name, target, in_function, for_types)
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for child in node.body:
            yield from _statements(name, child, in_function=in_function, for_types=True)
        for child in node.orelse:
            yield from _statements(name, child, in_function=in_function)
    else:
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from _statements(name, child, in_function=inside, for_types=for_types)


#: A module of ours, wherever a string has its name: a key of a table of modules, code, an argument.
_NAME = re.compile(r"\bagentcgroup(?:\.\w+)+")


def _names(name: str, tree: ast.Module) -> Iterator[Import]:
    """Yield the modules of ours that strings name; docstrings may name any."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        for found in _NAME.findall(node.value) if isinstance(node.value, str) else ():
            target = found
            while target not in _MODULES and "." in target:  # a function of the module
                target = target.rpartition(".")[0]
            if "." in target:
                yield Import(name, target, by_name=True)


def _is_ours(target: str) -> bool:
    return target.split(".")[0] == "agentcgroup"


def _layer(module: str) -> str:
    """Return the part of core that a module belongs to; "" is the package's own face."""
    return [*module.split("."), ""][1]


def test_the_page_lists_every_part_of_core() -> None:
    parts = {_layer(name) for name in CORE} | {"_native"}
    assert parts - {""} == set(_RANK)


def test_the_page_names_modules_that_exist() -> None:
    """Written as `records/bus` or `calls/call.py`."""
    packages = "|".join(name for name in _RANK if f"agentcgroup.{name}" in CORE)
    found = {
        f"agentcgroup.{package}.{module}"
        for package, module in re.findall(rf"(?<![\w./])({packages})/(\w+)", _PAGE)
    }
    assert len(found) > 10
    assert found <= set(CORE)


#: What imports upwards all the same, and why.
_UPWARDS = {
    # The face of the package, which the program itself would import next.
    ("agentcgroup.autoload.sitecustomize", "agentcgroup"),
    # `LimitExceeded.record` is public, and typed; errors can be imported without records.
    ("agentcgroup.errors", "agentcgroup.records.record"),
}


def test_core_imports_only_what_stands_below() -> None:
    """Also in functions, under TYPE_CHECKING, and by name."""
    upwards = {
        (one.importer, one.target)
        for one in _all_imports(CORE)
        if one.target in {*CORE, "agentcgroup._native"}
        and _layer(one.importer) != _layer(one.target)
        and _RANK.get(_layer(one.importer), -1) >= _RANK.get(_layer(one.target), -1)
    }
    assert upwards == _UPWARDS


def test_modules_that_are_imported_by_name_exist() -> None:
    """An import by a wrong name fails in a program, and at no import of ours."""
    table = agentcgroup._EXPORTS
    assert sorted(name for names in table.values() for name in names) == agentcgroup.__all__
    assert set(table) <= set(CORE)
    with (ROOT / "pyproject.toml").open("rb") as file:
        scripts = tomllib.load(file)["project"]["scripts"]
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert _layer(module) == "cli"
        names = {getattr(node, "name", None) for node in CORE[module].body}
        assert function in names


def test_no_module_imports_itself_in_a_circle() -> None:
    """Inside the packages of core, where the layers say nothing."""
    graph: dict[str, set[str]] = {}
    for one in _imports(CORE):
        if one.target in CORE and _layer(one.importer) == _layer(one.target):
            graph.setdefault(one.importer, set()).add(one.target)
    assert graph
    TopologicalSorter(graph).prepare()  # raises CycleError


#: Where BPF is one of several sources, where an error names it, and where it is reported on.
_KNOW_BPF = {
    "agentcgroup.monitor.bpf",
    "agentcgroup.monitor.bcc",
    "agentcgroup.monitor.choice",
    "agentcgroup.cli.doctor",
}
#: Where adapters are loaded by their names. To be left to the registry alone.
_KNOW_ADAPTERS = {
    "agentcgroup.frameworks.registry",
    "agentcgroup.cli.doctor",
    "agentcgroup.cli.tools",
}


def test_core_knows_no_adapter_no_bpf_and_no_framework() -> None:
    wrong = [
        one
        for one in _all_imports(CORE)
        if (one.target in ADAPTERS and not (one.by_name and one.importer in _KNOW_ADAPTERS))
        or (one.target in BPF and one.importer not in _KNOW_BPF)
        or _FRAMEWORK.match(one.target)
    ]
    assert wrong == []


def test_adapters_import_the_adapter_module_of_core_and_nothing_else() -> None:
    wrong = {
        one.importer
        for one in _all_imports(ADAPTERS)
        if _is_ours(one.target) and one.target not in {"agentcgroup.adapter", *ADAPTERS}
    }
    assert wrong == set()


def test_adapters_import_their_framework_only_once_it_is_used() -> None:
    """No other adapter, no BPF, and nothing of others as the adapter is imported."""
    wrong = []
    for one in _all_imports(ADAPTERS):
        top = one.target.split(".")[0]
        own = ".".join(one.importer.split(".")[:3])
        if _is_ours(one.target):
            good = one.target in (_STABLE, own) or one.target.startswith(own + ".")
        else:
            late = one.in_function or one.for_types
            good = late or top in sys.stdlib_module_names or top in _HELPERS
        if not good:
            wrong.append(one)
    assert wrong == []


def test_bpf_imports_nothing_of_core_but_units_and_errors() -> None:
    allowed = {"agentcgroup.units", "agentcgroup.errors", *BPF}
    wrong = [one for one in _all_imports(BPF) if _is_ours(one.target) and one.target not in allowed]
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
    ("code", "imports"),
    [
        ("import a.b\ndef f():\n    import c", [Import("x", "a.b"), Import("x", "c", True)]),
        (
            "from agentcgroup.cgroup import files, find",
            [Import("x", "agentcgroup.cgroup.files"), Import("x", "agentcgroup.cgroup")],
        ),
        (
            "if TYPE_CHECKING:\n    import a\nelse:\n    import b",
            [Import("x", "a", for_types=True), Import("x", "b")],
        ),
        (
            "import_module('agentcgroup.monitor.helper')",
            [Import("x", "agentcgroup.monitor.helper", by_name=True)],
        ),
        (
            "run(['-c', 'from agentcgroup.isolation.worker import serve'])",
            [Import("x", "agentcgroup.isolation.worker", by_name=True)],
        ),
        (
            "import_module(f'agentcgroup.adapters.{name}')",
            [Import("x", "agentcgroup.adapters", by_name=True)],
        ),
        ("def f():\n    'See agentcgroup.cli.'\n    say('agentcgroup.register()')", []),
    ],
)
def test_imports_are_read_right(code: str, imports: list[Import]) -> None:
    assert _all_imports({"x": ast.parse(code)}) == imports


# -- threads and locks ----------------------------------------------------------------------------

#: What gevent or eventlet replaces of the standard library, and agentcgroup.threads has.
_REPLACED = {
    "threading": {"Lock", "RLock", "Condition", "Event", "Semaphore", "Thread", "Timer", "local"}
    | {"current_thread", "get_ident", "get_native_id"},
    "_thread": {"allocate_lock", "get_ident", "start_new_thread", "_local"},
    "queue": {"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "Empty"},
    "time": {"sleep"},
    "select": {"poll", "epoll", "select"},
    "socket": {"socket", "socketpair", "fromfd", "create_connection"},
    "subprocess": {"Popen", "run", "call", "check_call", "check_output"},
}
#: Who takes them all the same, and why.
_TAKES_REPLACED = {
    "agentcgroup.threads": "finds the originals",
    "agentcgroup.propagation": "propagates the call to the threads of the program",
    "agentcgroup.work_items": "tells the threads of the program's pools from others",
    "agentcgroup.autoload.sitecustomize": "sends one message, before the program's first line",
    "agentcgroup.run_watch": "sends one message; waits in a process of its own",
    "agentcgroup.cli.exec": "a process of its own, which runs no Python code of the user",
    "agentcgroup.monitor.helper": "a process of its own, which imports nothing of the program",
    "agentcgroup.monitor.procs": "part of the monitor's helper",
    "agentcgroup.monitor.bcc": "part of the monitor's helper",
    "agentcgroup.monitor.compiler": "a process of its own, which the helper starts",
}


def _taken(tree: ast.Module) -> set[str]:
    """Return what a module takes of `_REPLACED`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(module), attr=name) if module in _REPLACED:
                found.add((module, name))
            case ast.ImportFrom(module=str(module)) if module in _REPLACED:
                found.update((module, alias.name) for alias in node.names)
    return {f"{module}.{name}" for module, name in found if name in _REPLACED[module]}


def test_threads_and_locks_are_those_that_nobody_replaces() -> None:
    """A lock that switches greenlets is held by one and waited for by another for ever."""
    taken = {name: _taken(tree) for name, tree in CORE.items() if _taken(tree)}
    assert set(taken) == set(_TAKES_REPLACED), taken


def test_what_is_replaced_is_read_right() -> None:
    code = "import time, threading\nfrom queue import Queue\nthreading.Lock(); time.monotonic()"
    assert _taken(ast.parse(code)) == {"threading.Lock", "queue.Queue"}


# -- sizes ----------------------------------------------------------------------------------------

_LONGEST_MODULE = 320
_LONGEST_CLASS = 250
_LONGEST_FUNCTION = 60
_LONGEST_C_FILE = 450


def _too_long(file: str, source: str) -> Iterator[str]:
    """Yield the file, and the classes and functions in it, that are too long."""
    lines = len(source.splitlines())
    if not file.endswith(".py"):
        if lines > _LONGEST_C_FILE:
            yield file
        return
    if lines > _LONGEST_MODULE:
        yield file
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            longest = _LONGEST_CLASS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            longest = _LONGEST_FUNCTION
        else:
            continue
        assert node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 > longest:
            yield f"{file}: {node.name}"


def test_nothing_is_too_long_to_read() -> None:
    files = [
        path
        for folder in ("core", "adapters", "bpf")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".c", ".h")
    ]
    assert len(files) > 100
    found = {
        one
        for path in files
        for one in _too_long(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    ("file", "source", "found"),
    [
        ("a.py", "x\n" * 320, []),
        ("a.py", "x\n" * 321, ["a.py"]),
        ("a.c", "x\n" * 450, []),
        ("a.h", "x\n" * 451, ["a.h"]),
        ("a.py", "async def f():\n" + " x\n" * 59, []),
        ("a.py", "class A:\n def f():\n" + "  x\n" * 60, ["a.py: f"]),
        ("a.py", "class A:\n" + " x\n" * 250, ["a.py: A"]),
    ],
)
def test_sizes_are_read_right(file: str, source: str, found: list[str]) -> None:
    assert list(_too_long(file, source)) == found


# -- who changes a call ---------------------------------------------------------------------------

#: How code outside of `calls` names a call.
_A_CALL = re.compile(r"(.*\.)?_?(call|opened)")


def _changes(tree: ast.Module) -> set[str]:
    """Return the attributes of calls that are assigned or deleted."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=value, ctx=ast.Store() | ast.Del()):
                changed = value
            case ast.Call(func=ast.Name("setattr" | "delattr"), args=[value, *_]):
                changed = value
            case _:
                continue
        if _A_CALL.fullmatch(ast.unparse(changed)):
            found.add(ast.unparse(node))
    return found


def test_only_the_state_machine_changes_a_call() -> None:
    """Everybody else has the methods of `Call` that note something."""
    found = [
        (name, change)
        for name, tree in {**CORE, **ADAPTERS, **BPF}.items()
        if name not in ("agentcgroup.calls.call", "agentcgroup.calls.state")
        for change in _changes(tree)
    ]
    assert found == []


def test_changes_are_read_right() -> None:
    code = "call.a = 1; del self._call.b; opened.c += 1; self.call = call; call.d(); x.e = call.f"
    assert _changes(ast.parse(code)) == {"call.a", "self._call.b", "opened.c"}
    assert _changes(ast.parse("setattr(call, name, 1)")) == {"setattr(call, name, 1)"}
