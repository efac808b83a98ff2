"""Small wrong changes to a formula: what `mutate.py` applies, one at a time, to see whether some test notices.

A mutant replaces one span of bytes of a source file, so everything around it, line numbers included, stays as written.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
FUNCTIONS = {
    "sin": "cos",
    "cos": "sin",
    "max": "min",
    "min": "max",
    "exp": "expm1",
    "expm1": "exp",
    "log": "log1p",
    "log1p": "log",
}
LETTERS = [("alpha", "sigma"), ("_s", "_t"), ("x_0", "x_t"), ("x0", "noise")]
# Left alone: texts, annotations and the lists of public names are not formulas.
SKIPPED = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)


@dataclass(frozen=True)
class Mutant:
    """One change: bytes `begin` to `end` of the file `path`, in the function `scope`, become `new`.

    Its name holds no line number, so that it stays valid while the file changes elsewhere; where the same change is
    possible at several places of a function, they are numbered from the top by `nth`.
    """

    path: Path
    line: int
    scope: str
    begin: int
    end: int
    old: str
    new: str
    nth: int = 1

    def __str__(self) -> str:
        number = f" #{self.nth}" if self.nth > 1 else ""
        return f"{self.path}::{self.scope}: {self.old} => {self.new}{number}"

    def applied(self, source: bytes) -> bytes:
        """The source with the change made."""
        return source[: self.begin] + self.new.encode() + source[self.end :]


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    """Every mutant of one file, in the order of the file; `path` is relative to `root`."""
    source = (root / path).read_bytes()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    found = []
    for node, scope, names in _formula_nodes(ast.parse(source)):
        begin, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        old = " ".join(source[begin:end].decode().split())
        found += [Mutant(path, node.lineno, scope, begin, end, old, new) for new in _changes(node, names)]
    return _numbered(sorted(found, key=lambda mutant: (mutant.begin, mutant.end, mutant.new)))


def _numbered(mutants: list[Mutant]) -> list[Mutant]:
    """The mutants, those of equal name told apart by a number."""
    met = Counter[str]()
    numbered = []
    for mutant in mutants:
        met[str(mutant)] += 1
        numbered.append(replace(mutant, nth=met[str(mutant)]))
    return numbered


def _formula_nodes(tree: ast.Module) -> Iterator[tuple[ast.expr, str, frozenset[str]]]:
    """Expressions inside functions and class bodies, with the scope's dotted name and the names used in it."""

    def visit(node: ast.AST, scope: str, names: frozenset[str]) -> Iterator[tuple[ast.expr, str, frozenset[str]]]:
        if isinstance(node, SKIPPED):
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}".lstrip(".")
            names = _names_in(node) if isinstance(node, ast.FunctionDef) else names
        if isinstance(node, ast.expr) and scope:
            yield node, scope, names
        for child in _children(node):
            yield from visit(child, scope, names)

    yield from visit(tree, "", frozenset())


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What lies below a node, without annotations and decorators."""
    skipped = {"annotation", "returns", "decorator_list", "type_params", "bases"}
    for field, value in ast.iter_fields(node):
        if field not in skipped:
            yield from (
                child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)
            )


def _names_in(function: ast.FunctionDef) -> frozenset[str]:
    """Local names and attributes that a function mentions: only these can stand in for one another."""
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return frozenset(names | {f".{node.attr}" for node in ast.walk(function) if isinstance(node, ast.Attribute)})


def _changes(node: ast.expr, names: frozenset[str]) -> Iterator[str]:
    """The source texts that may wrongly stand where this expression stands."""
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not _is_text(left):
            yield f"({ast.unparse(ast.BinOp(left, OPERATORS[type(operator)](), right))})"
            yield f"({ast.unparse(left)})"
        case ast.UnaryOp(ast.USub(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield f"({ast.unparse(operand)})"
        case ast.Compare(left, [operator], [right]) if type(operator) in COMPARISONS:
            yield f"({ast.unparse(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))})"
        case ast.BoolOp(operator, values):
            yield f"({ast.unparse(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values))})"
        case ast.Constant(value) if isinstance(value, bool):
            yield str(not value)
        case ast.Constant(value) if isinstance(value, int | float):
            yield f"(-{value!r})" if value else "1"
        case ast.Name(name, ast.Load()):
            yield from (other for other in _stand_ins(name) if other in names or other in FUNCTIONS)
        case ast.Attribute(value, name, ast.Load()):
            others = (other for other in _stand_ins(name) if f".{other}" in names or name in FUNCTIONS)
            yield from (f"{ast.unparse(value)}.{other}" for other in others)


def _stand_ins(name: str) -> Iterator[str]:
    """Names that are easily written for this one: the other coefficient, the other time."""
    if name in FUNCTIONS:
        yield FUNCTIONS[name]
    for one, other in LETTERS:
        for old, new in ((one, other), (other, one)):
            if old.startswith("_") and name.endswith(old):
                yield name.removesuffix(old) + new
            elif not old.startswith("_") and old in name:
                yield name.replace(old, new)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
