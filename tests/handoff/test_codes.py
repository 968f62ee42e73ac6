"""Every status, failure code and exit code is produced by a test, through real programs. This makes the table."""

import subprocess
import sys
from pathlib import Path

import pytest

from bletoken import console, errors
from bletoken.errors import BletokenError
from bletoken.protocol.companion import MethodNotOfferedError
from bletoken.protocol.wire import ClearCode, FailureCode

TESTS = Path(__file__).parent.parent

EXIT_CODES = {
    0,
    console.EXIT_INTERRUPTED,
    MethodNotOfferedError.exit_code,
    *(c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, BletokenError)),
}

LISTER = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers("produces"):
            for code in mark.args:
                print(f"PRODUCES {type(code).__name__}.{code.name} {item.nodeid}")
            if "exit_code" in mark.kwargs:
                print(f"PRODUCES exit.{mark.kwargs['exit_code']} {item.nodeid}")
"""


@pytest.fixture(scope="module")
def producers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The tests that say they produce each code, as pytest collects them."""
    folder = tmp_path_factory.mktemp("lister")
    (folder / "lister.py").write_text(LISTER)
    listed = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "lister",
            "-p",
            "no:xdist",
            str(TESTS / "handoff"),
        ],
        cwd=TESTS.parent,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        if line.startswith("PRODUCES "):
            _, code, test = line.split(" ", 2)
            found.setdefault(code, []).append(test)
    return found


@pytest.mark.parametrize(
    "code",
    [f"ClearCode.{code.name}" for code in ClearCode]
    + [f"FailureCode.{code.name}" for code in FailureCode]
    + [f"exit.{code}" for code in sorted(EXIT_CODES)],
)
def test_a_test_through_real_programs_produces(code: str, producers: dict[str, list[str]]) -> None:
    tests = producers.get(code, [])
    assert tests, f"no test is marked to produce {code}"
    print(f"{code:35} {tests[0]}" + (f" and {len(tests) - 1} more" if len(tests) > 1 else ""))
    assert any("processes" in test or "process" in test for test in tests), f"{code}: no real program in {tests}"


@pytest.mark.parametrize("code", [f"{e.__name__}.{c.name}" for e in (ClearCode, FailureCode) for c in e])
def test_a_real_device_says(code: str, producers: dict[str, list[str]]) -> None:
    tests = [test for test in producers.get(code, []) if "test_verdicts" not in test]
    assert tests, f"no test makes a real device say {code}"
