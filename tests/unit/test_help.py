"""`--help` of every command of every program."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

PROGRAMS = {
    "bletoken-peripheral": "bletoken_peripheral.cli",
    "bletoken-central": "bletoken_central.cli",
    "bletoken-sim": "bletoken.sim.cli",
}

SHOW_AND_TELL_WHAT_WAS_LOADED = """
import importlib, sys
cli = importlib.import_module(sys.argv[1])
try:
    cli.main([*sys.argv[2:], "--help"])
except SystemExit as end:
    assert end.code == 0
print(*sys.modules, sep="\\n", file=sys.stderr)
"""

LIGHT = {
    *("bletoken", "bletoken.command_line", "bletoken.sim", "bletoken.sim.cli"),
    *("bletoken.sim.cloud", "bletoken.sim.cloud.arguments"),
    *("bletoken_peripheral", "bletoken_peripheral.cli", "bletoken_central", "bletoken_central.cli"),
}
"""Our own modules that `--help` may load: they load nothing that takes time."""

HEAVY = {
    *("asyncio", "dataclasses", "datetime", "json", "logging", "pathlib", "secrets", "typing"),
    *("bleak", "bless", "bumble", "cbor2", "cryptography", "httpx", "PIL", "rich", "starlette", "uvicorn"),
}


def commands() -> Iterator[list[str]]:
    for program, module in PROGRAMS.items():
        yield from paths_of(importlib.import_module(module), program, [])


def paths_of(cli: Any, program: str, path: list[str]) -> Iterator[list[str]]:
    parser = cli.parser(path)
    for name in path:
        parser = below(parser)[name]
    yield [program, *path]
    for name in below(parser):
        yield from paths_of(cli, program, [*path, name])


def below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_help_tells_of_the_command_and_loads_next_to_nothing(command: list[str]) -> None:
    # Isolated: nothing is loaded but what the program needs.
    program = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path += {sys.path!r}\n{SHOW_AND_TELL_WHAT_WAS_LOADED}",
    ]
    done = subprocess.run([*program, PROGRAMS[command[0]], *command[1:]], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {' '.join(command)} ")
    assert "--json" in done.stdout or "COMMAND" in done.stdout
    loaded = set(done.stderr.split())
    assert {name for name in loaded if name.startswith("bletoken")} <= LIGHT
    assert not loaded & HEAVY
