"""What the table says when not all of it could be had."""

import json
import sys
from collections.abc import AsyncIterator

import pytest
from torture import __main__ as torture
from torture import cloud, soak
from torture.plan import NotPossibleError, Plan
from torture.report import Result, Trial


def trials_that_end_with(error: Exception | None) -> object:
    async def trials(_: Plan) -> AsyncIterator[Trial]:
        yield Trial("the first fault", Result.SURVIVED)
        if error is not None:
            raise error

    return trials


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotPossibleError("no strace here"), "no strace here"),
        (TimeoutError(), "it broke off: TimeoutError()"),
    ],
)
def test_a_family_that_breaks_off_takes_no_other_with_it_and_the_command_fails(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cloud, "trials", trials_that_end_with(error))
    monkeypatch.setattr(soak, "trials", trials_that_end_with(None))
    monkeypatch.setattr(sys, "argv", ["torture", "--json", "cloud", "soak"])
    assert torture.main() == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["family"], row["tried"], row["survived"], row["untried"]) for row in rows] == [
        ("cloud", 1, 1, told),
        ("soak", 1, 1, ""),
    ]
