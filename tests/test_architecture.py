"""The shape of the code: which layer may import which, and the house rules that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "fsm").rglob("*.py"))
SCRIPTS = sorted((ROOT / "docs").glob("*.py"))

MACHINE, JOURNAL, HYPERVISOR, IMAGES = "machine", "journal", "hypervisor", "images"
ENGINE, CLI, LAB = "engine", "cli", "lab"
# What each layer may import, besides itself and `errors`, which all may.
MAY_IMPORT = {
    "errors": set(),
    MACHINE: set(),
    JOURNAL: {MACHINE},
    HYPERVISOR: {MACHINE},
    IMAGES: {HYPERVISOR, MACHINE},
    ENGINE: {IMAGES, HYPERVISOR, JOURNAL, MACHINE},
    LAB: {ENGINE, IMAGES, HYPERVISOR, JOURNAL, MACHINE},
    CLI: {LAB, ENGINE, IMAGES, HYPERVISOR, JOURNAL, MACHINE},
    "__main__": {CLI},
    # The public names, and nothing that would load libvirt.
    "__init__": {ENGINE, HYPERVISOR, JOURNAL, MACHINE},
}
# The adapter is asked for by the ones that make connectors: the engine's default, the command line, the lab.
MAY_IMPORT_ADAPTER = {"fsm/engine/engine.py"}

# The machine is pure: of the standard library it may use only what computes.
PURE = {
    *(
        "__future__",
        "collections",
        "collections.abc",
        "difflib",
        "enum",
        "functools",
        "hashlib",
        "html",
        "itertools",
    ),
    *("json", "math", "re", "textwrap", "types", "typing"),
    *("attrs", "transitions", "yaml", "yaml.nodes", "yaml.reader"),
}
# Reading states.yaml is the one thing it may read, and only there.
READS_A_FILE = {"fsm/machine/loader.py": {"importlib.resources", "pathlib"}}

MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 60


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that the file imports, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative imports hide the layer"
            yield node.module or "", node.lineno
            # `from fsm.hypervisor import libvirt` imports a module as well.
            if node.module and node.module.startswith("fsm"):
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def own_layer(path: Path) -> str:
    parts = path.relative_to(ROOT / "fsm").with_suffix("").parts
    return parts[0]


def in_package(path: Path, package: str) -> bool:
    return path.is_relative_to(ROOT / "fsm" / package)


def test_there_is_something_to_look_at() -> None:
    assert {own_layer(path) for path in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    mine = own_layer(path)
    allowed = MAY_IMPORT[mine] | {mine, "errors"}
    # The package itself may be imported only by those above everything else.
    allowed |= {"__init__"} if mine in (CLI, LAB, "__main__") else set()
    for module, line in imports(path):
        if module != "fsm" and not module.startswith("fsm."):
            continue
        # Names of the package's own __init__ show up as modules of their own.
        if layer(module) not in MAY_IMPORT and mine in (CLI, LAB):
            continue
        assert layer(module) in allowed, f"{name_of(path)}:{line}: {mine} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_libvirt_is_imported_by_its_adapter_alone(path: Path) -> None:
    for module, line in imports(path):
        if module.split(".")[0] in ("libvirt", "libvirtaio", "libvirtmod", "libvirt_qemu"):
            assert in_package(path, "hypervisor/libvirt"), f"{name_of(path)}:{line}"
        if module.startswith("fsm.hypervisor.libvirt"):
            allowed = (
                in_package(path, "hypervisor/libvirt")
                or own_layer(path) in (CLI, LAB)
                or name_of(path) in MAY_IMPORT_ADAPTER
            )
            assert allowed, f"{name_of(path)}:{line}: imports {module}"


def test_the_package_can_be_imported_without_libvirt() -> None:
    """Embedders that simulate need no libvirt library: nothing loads the adapter at import time."""
    for path in FILES:
        if in_package(path, "hypervisor/libvirt") or own_layer(path) in (CLI, LAB, "__main__"):
            continue
        for node in tree_of(path).body:
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("fsm.hypervisor.libvirt"), name_of(path)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_transitions_is_imported_by_the_interpreter_alone(path: Path) -> None:
    for module, line in imports(path):
        if module.split(".")[0] == "transitions":
            assert name_of(path) == "fsm/machine/interpreter.py", f"{name_of(path)}:{line}"


@pytest.mark.parametrize("path", [p for p in FILES if own_layer(p) == MACHINE], ids=name_of)
def test_the_machine_is_pure(path: Path) -> None:
    allowed = PURE | READS_A_FILE.get(name_of(path), set())
    for module, line in imports(path):
        if module == "fsm" or module.startswith("fsm."):
            continue
        assert module in allowed, f"{name_of(path)}:{line}: {module} may have effects"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input", "eval", "exec", "__import__"), (
                f"{name_of(path)}:{node.lineno}"
            )
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("write_text", "write_bytes", "unlink", "mkdir", "touch"), (
                f"{name_of(path)}:{node.lineno}"
            )


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{name_of(path)}:{node.lineno}: {node.name} has {length}"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    broad = ("Exception", "BaseException")
    return caught is None or any(isinstance(kind, ast.Name) and kind.id in broad for kind in kinds)


def raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise)


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_what_catches_everything_raises_again_or_has_its_reason(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ExceptHandler) or not catches_everything(node):
            continue
        assert node.type is not None, f"{name_of(path)}:{node.lineno}: bare except"
        reason = re.search(r"#\s*noqa: BLE001\s+(#|-)\s*\w+", lines[node.lineno - 1])
        assert raises_again(node) or reason, f"{name_of(path)}:{node.lineno}: swallows everything"


# These run in the adapter's worker threads, never in the event loop; the lab has no event loop.
MAY_SLEEP = {"fsm/hypervisor/libvirt/channel.py", "fsm/hypervisor/libvirt/pools.py"}


@pytest.mark.parametrize(
    "path", [p for p in FILES if own_layer(p) != LAB and name_of(p) not in MAY_SLEEP], ids=name_of
)
def test_nothing_sleeps_in_the_event_loop(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name):
            assert node.value.id != "time", f"{name_of(path)}:{node.lineno}: time.sleep"
    for module, line in imports(path):
        assert module != "time.sleep", f"{name_of(path)}:{line}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert path.read_text("utf-8").strip() == "" or ast.get_docstring(tree_of(path))
