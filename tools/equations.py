"""The equation table: which line implements an equation of the mathematics page, and which test proves it.

    python tools/equations.py                 print the table as a page of the docs
    python tools/equations.py --check         fail where an equation has code without a test, or is listed without code

A docstring that implements an equation carries its tag, `(M12)`, `(M4, M5)` or `(M6–M9; Song et al. 2021)`, and so does
the docstring of the test that proves it. What each tag means is on `docs/mathematics.md`; their names, and which
must be there, are in `tools/equations.toml`.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = re.compile(r"\((M\d[^()]*)\)")
NUMBERS = re.compile(r"\bM(\d+)(?:\s*[–-]\s*M?(\d+))?")


@dataclass(frozen=True)
class Place:
    """Where a tag stands: a file, a line, and the dotted name of the function, class or module there."""

    path: str
    line: int
    name: str


def tags_in(text: str) -> set[int]:
    """The numbers of the equations that a docstring cites.

    >>> sorted(tags_in("The bridge (M4, M5) and every conversion (M6–M9; Song et al. 2021), not M30."))
    [4, 5, 6, 7, 8, 9]
    """
    found: set[int] = set()
    for group in GROUP.findall(text):
        for first, last in NUMBERS.findall(group):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def places_in(folder: Path) -> dict[int, list[Place]]:
    """Every cited equation in the docstrings below a folder, with the places that cite it."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        for node, name in _documented(ast.parse(path.read_text(encoding="utf-8"))):
            for tag in sorted(tags_in(ast.get_docstring(node) or "")):
                found[tag].append(Place(path.relative_to(ROOT).as_posix(), getattr(node, "lineno", 1), name))
    return dict(found)


def _documented(node: ast.AST, scope: str = "") -> Iterator[tuple[ast.Module | ast.ClassDef | ast.FunctionDef, str]]:
    """A module and all classes and functions in it, each with its dotted name."""
    if isinstance(node, ast.Module):
        yield node, ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef):
            name = f"{scope}.{child.name}".lstrip(".")
            yield child, name
            yield from _documented(child, name)


def proofs_in(folder: Path) -> dict[int, list[Place]]:
    """Every equation cited by a test function, with these functions: a module's docstring proves nothing."""
    found = {
        tag: [place for place in places if place.name.rpartition(".")[2].startswith("test")]
        for tag, places in places_in(folder).items()
    }
    return {tag: places for tag, places in found.items() if places}


def complaints(names: dict[int, str], implemented: set[int], code: dict, proofs: dict) -> list[str]:
    """What is wrong with the table: one line for each, naming the equation and what to do."""
    cited = set(code) | set(proofs)
    return [
        *(f"{_where(code, proofs, tag)}: there is no such equation" for tag in sorted(cited - set(names))),
        *(f"M{tag} is listed as implemented, but no docstring cites it" for tag in sorted(implemented - set(code))),
        *(f"M{tag} is implemented, but no test's docstring cites it" for tag in sorted(implemented - set(proofs))),
    ]


def _where(code: dict[int, list[Place]], proofs: dict[int, list[Place]], tag: int) -> str:
    place = (code.get(tag) or proofs[tag])[0]
    return f"{place.path}:{place.line} cites M{tag}"


def table() -> str:
    """The page of the docs, in Markdown."""
    names, implemented = _listed()
    code, proofs = places_in(ROOT / "scorefield"), proofs_in(ROOT / "tests")
    rows = [
        f"| [M{tag}](mathematics.md#m{tag}) | {names[tag]} | {_cell(code, tag)} | {_cell(proofs, tag)} |"
        for tag in sorted(implemented | (set(code) & set(names)))
    ]
    return "\n".join([PAGE_HEAD, *rows, ""])


PAGE_HEAD = """# Equation, line, test

Made by `tools/equations.py` from the docstrings when the site is built. Each implemented equation of
[the mathematics](mathematics.md) has lines that implement it and tests that prove it; CI fails where one is missing.

| | equation | implemented in | proved by |
|---|---|---|---|"""


def _cell(found: dict[int, list[Place]], tag: int) -> str:
    """The places of an equation for a cell of the table, without those that only contain another of them."""
    places = found.get(tag, [])
    specific = [place for place in places if not any(_inside(other, place) for other in places)]
    return "<br>".join(f"`{place.path}:{place.line}` {place.name.replace('_', chr(92) + '_')}" for place in specific)


def _inside(inner: Place, outer: Place) -> bool:
    below = not outer.name or inner.name.startswith(f"{outer.name}.")
    return inner.path == outer.path and inner.name != outer.name and below


def _listed() -> tuple[dict[int, str], set[int]]:
    """The names of all equations, and the numbers of those that are implemented."""
    listed = tomllib.loads((ROOT / "tools" / "equations.toml").read_text(encoding="utf-8"))
    return {int(tag[1:]): name for tag, name in listed["names"].items()}, set(listed["implemented"])


def main() -> int:
    """Print the table, or with --check say what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where an equation has no code or no test")
    if not parser.parse_args().check:
        print(table(), end="")
        return 0
    found = complaints(*_listed(), places_in(ROOT / "scorefield"), proofs_in(ROOT / "tests"))
    print(*found, sep="\n", file=sys.stderr)
    if not found:
        print(f"{len(_listed()[1])} equations implemented, each with its line and its test")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
