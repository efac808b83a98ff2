"""The rules of the house that hold for every file, and the tests' own equipment."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from scorefield.paths import EDM

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "scorefield").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "benchmarks").glob("*.py"))], ids=relative)
def test_no_file_can_run_what_it_reads(path):
    """One pickle, eval or shell anywhere would let a model file run code."""
    forbidden = r"import pickle|pickle\.|torch\.(load|save)\(|allow_pickle=True|yaml\.load\("
    forbidden += r"|(?<!\.)\beval\(|\bexec\(|__import__|shell=True"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if re.search(forbidden, line)]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_files_and_functions_stay_small(path):
    """A file of more than 500 lines of code, or a function of more than 60, is two things under one name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert _code_lines(tree) <= 500
    assert not [f"{node.name}, line {node.lineno}" for node in functions if _code_lines(node) > 60]


def _code_lines(tree: ast.Module | ast.FunctionDef) -> int:
    """Lines that hold code: without docstrings, comments and empty lines."""
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    within_texts = {line for node in texts for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    covered = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.expr | ast.stmt)
        for line in (node.lineno, node.end_lineno or node.lineno)
    }
    return len(covered - within_texts)


def test_annotations_are_postponed_everywhere():
    """Without this import a shape annotation is evaluated on a user's machine, where jaxtyping may be missing."""
    texts = {relative(path): path.read_text(encoding="utf-8") for path in MODULES}
    annotated = {name: text for name, text in texts.items() if re.search(r"\bdef |\bclass ", text)}
    assert not [name for name, text in annotated.items() if "from __future__ import annotations" not in text]


def test_shapes_are_checked_under_test():
    """If the import hook were off, every shape annotation in the package could be false unnoticed."""
    with pytest.raises(Exception, match="Type-check error"):
        EDM().perturb(torch.zeros(3, 2), 1.0, torch.zeros(3, 4))


def test_nothing_asks_for_torchvision():
    """It replaces torch by a build of several gigabytes."""
    asked = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8")
    assert "torchvision" not in asked + str(PROJECT["project"])


def test_every_dependency_is_pinned_for_the_tests():
    """An install without a pin differs from the last one that passed."""
    pins = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    names = {re.split(r"[>=\[]", need)[0].lower().replace("_", "-") for need in wanted} - {"scorefield"}
    assert not [name for name in sorted(names) if f"\n{name}==" not in pins]


def test_the_version_is_told_once_everywhere():
    """A bug report, a citation and a model's config must mean the same version."""
    version = PROJECT["project"]["version"]
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_loop_of_ones_own_runs_as_printed(page):
    """The first code a reader copies must work."""
    blocks = re.findall(r"<!-- runs -->\n```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        samples = names["samples"]
        assert isinstance(samples, torch.Tensor)
        assert samples.shape == (64, 2)
        assert samples.isfinite().all()


@pytest.mark.parametrize(("in_ci", "outcome"), [("", "1 passed, 1 skipped"), ("true", "1 passed, 1 error")])
def test_what_is_missing_skips_here_and_fails_in_ci(tmp_path, in_ci, outcome):
    """A check that is skipped in CI for want of a tool would never run again, and nobody would know."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = needs: x\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.needs('no-such-tool')\ndef test_a(): pass\n"
        "@pytest.mark.needs('json')\ndef test_b(): pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "CI": in_ci},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert outcome in result.stdout
    assert "no-such-tool" in result.stdout or not in_ci
