"""A command line that no program understands."""

import importlib
import json

import pytest

PROGRAMS = {
    "bletoken_peripheral.cli": ["run"],
    "bletoken_central.cli": ["scan"],
    "bletoken.sim.cli": ["demo"],
}

every_program = pytest.mark.parametrize(("module", "words"), PROGRAMS.items())


@every_program
def test_a_machine_is_told_in_json(module: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*words, "--json", "--no-such-option"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (ended.value.code, told["exit_code"]) == (2, 2)
    assert told["ok"] is False
    assert "--no-such-option" in told["message"]
    assert not err


@every_program
def test_a_person_is_told_with_the_usage(module: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*words, "--no-such-option"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert err.startswith("usage: bletoken-")
    assert "--no-such-option" in err
    assert not out
