"""The equation table and the mutation check do what the project's rules rely on."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    """Import a tool by name, as its own command line would."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


# ── equations.py ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("x_t = α x₀ + σ ε (M1).", {1}),
        ("(M1; Song et al. 2021, eq. 29)", {1}),
        ("all conversions (M6–M9) and (M4, M5)", {4, 5, 6, 7, 8, 9}),
        ("M30 without brackets, (see M2), and M(3) are no tags", set()),
    ],
)
def test_tags_are_read_in_every_way_they_are_written(tool, docstring, expected):
    assert tool("equations").tags_in(docstring) == expected


def test_only_test_functions_prove_an_equation(tool, tmp_path, monkeypatch):
    """Otherwise a module docstring that lists equations would pass for a proof of all of them."""
    equations = tool("equations")
    monkeypatch.setattr(equations, "ROOT", tmp_path)
    (tmp_path / "test_x.py").write_text(
        '"""About (M1)."""\ndef helper():\n    """(M2)"""\ndef test_it():\n    """(M3)"""\n'
    )
    assert set(equations.proofs_in(tmp_path)) == {3}


def test_every_gap_in_the_table_is_named(tool):
    equations = tool("equations")
    place = [equations.Place("scorefield/paths.py", 7, "Path.alpha")]
    names = {1: "kernel", 2: "ratio", 3: "SDE"}
    assert equations.complaints(names, {1}, code={1: place}, proofs={1: place}) == []
    found = equations.complaints(names, {1, 2}, code={1: place, 9: place}, proofs={})
    assert found == [
        "scorefield/paths.py:7 cites M9: there is no such equation",
        "M2 is listed as implemented, but no docstring cites it",
        "M1 is implemented, but no test's docstring cites it",
        "M2 is implemented, but no test's docstring cites it",
    ]


def test_every_equation_of_the_table_is_on_the_mathematics_page(tool):
    """Each row of the table links to the statement of its equation."""
    page = (TOOLS.parent / "docs" / "mathematics.md").read_text(encoding="utf-8")
    names, implemented = tool("equations")._listed()
    assert implemented <= set(names)
    assert not [tag for tag in names if f'id="m{tag}"' not in page]


# ── mutate.py ────────────────────────────────────────────────────────────────────────────────────────────────────────

FORMULA = '''"""A docstring with - signs."""
def kernel(alpha_s: float = -1.0, sigma_s: float = 2.0) -> float:
    """α − σ."""
    if alpha_s < 0:
        raise ValueError(f"{alpha_s - 1}")
    return alpha_s * 3 + sigma_s
'''


def test_mutants_change_formulas_and_nothing_else(tool, tmp_path):
    """Texts, annotations and messages of errors are no formulas; everything else of these lines is."""
    (tmp_path / "kernel.py").write_text(FORMULA, encoding="utf-8")
    mutants = tool("mutants").mutants_of(Path("kernel.py"), tmp_path)
    assert {f"{mutant.old} => {mutant.new}" for mutant in mutants} == {
        "-1.0 => (1.0)",
        "1.0 => (-1.0)",
        "2.0 => (-2.0)",
        "alpha_s < 0 => (alpha_s >= 0)",
        "0 => 1",
        "alpha_s => sigma_s",
        "sigma_s => alpha_s",
        "3 => (-3)",
        "alpha_s * 3 => (alpha_s / 3)",
        "alpha_s * 3 => (alpha_s)",
        "alpha_s * 3 + sigma_s => (alpha_s * 3 - sigma_s)",
        "alpha_s * 3 + sigma_s => (alpha_s * 3)",
    }


def test_a_mutant_is_one_change_that_compiles(tool, tmp_path):
    (tmp_path / "kernel.py").write_text(FORMULA, encoding="utf-8")
    source = FORMULA.encode()
    for mutant in tool("mutants").mutants_of(Path("kernel.py"), tmp_path):
        changed = mutant.applied(source)
        compile(changed, "kernel.py", "exec")
        assert changed != source
        assert changed.count(b"\n") == source.count(b"\n")


def test_equal_changes_of_one_function_have_names_of_their_own(tool, tmp_path):
    """A change that is listed as equivalent at one place must not excuse the same change at another."""
    (tmp_path / "kernel.py").write_text("def kernel(x):\n    return x + 2 * (x + 2)\n", encoding="utf-8")
    names = [str(mutant) for mutant in tool("mutants").mutants_of(Path("kernel.py"), tmp_path)]
    assert len(set(names)) == len(names)
    assert "kernel.py::kernel: 2 => (-2) #2" in names


@pytest.fixture
def tiny_project(tmp_path: Path) -> Path:
    """A project of one formula whose test checks one of two branches, and one mutant that is listed as equivalent."""
    files = {
        "scorefield/__init__.py": "",
        "scorefield/paths.py": "def checked(x):\n    return x + x\n\ndef unseen(x):\n    return x + x, -x\n",
        "tests/test_paths.py": "from scorefield.paths import checked\n\ndef test_it():\n    assert checked(3) == 6\n",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow: x']\n",
        "tools/mutate.toml": '[tests]\n"scorefield/paths.py" = []\n[equivalent]\n'
        '"scorefield/paths.py::unseen: -x => (x)" = "a reason"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_the_mutation_check_reports_exactly_what_no_test_notices(tiny_project):
    """If mutants ran against the unchanged file, or all against one cached file, the check would be worth nothing."""
    code = "import sys, pathlib, mutate; mutate.ROOT = pathlib.Path(sys.argv.pop(1)); sys.exit(mutate.main())"
    command = [sys.executable, "-c", code, str(tiny_project), "--workers", "2"]
    result = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, timeout=100, check=False)
    survived = sorted(line for line in result.stdout.splitlines() if line.startswith("survived"))
    assert survived == [
        "survived: line 5 of scorefield/paths.py::unseen: x + x => (x - x)",
        "survived: line 5 of scorefield/paths.py::unseen: x + x => (x)",
    ], result.stdout + result.stderr
    assert "4 of 4 mutants tried, 2 survived, 50.0 % noticed" in result.stdout
    assert result.returncode == 1
