"""The shape of the code: small files, small functions, few parameters, and nobody prints but the command line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "sentinode"
FILES = sorted(SOURCE.rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            yield node


def lines_without_docstring(node: Function) -> int:
    documented = ast.get_docstring(node, clean=False)
    return (node.end_lineno or node.lineno) - node.lineno + 1 - (documented.count("\n") + 1 if documented else 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_reads_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in functions(path):
        assert lines_without_docstring(node) <= 60, node.name
        named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in {"self", "cls"}]
        assert len(named) <= 7, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_is_swallowed_and_nobody_else_prints(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            assert not {ast.unparse(kind) if kind else "everything" for kind in kinds} & {
                "everything",
                "Exception",
                "BaseException",
            }
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            assert path.name in {"cli.py", "progress.py"}
        assert not isinstance(node, ast.Assert)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_is_loaded_that_could_run(path: Path) -> None:
    """Weights and tables are data: no pickle, no eval, and torch reads tensors only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    guarded = [node for node in calls if "weights_only=True" in map(ast.unparse, node.keywords)]
    called = {ast.unparse(node.func) for node in calls if node not in guarded}
    assert not imported & {"pickle", "joblib", "dill", "shelve", "marshal"}
    assert not called & {"eval", "exec", "torch.load"}


def test_half_the_files_are_short() -> None:
    sizes = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES if path.name != "__init__.py")
    assert sizes[len(sizes) // 2] <= 160
