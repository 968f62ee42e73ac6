"""The torture proves something: with one defence taken out it finds what that defence is for."""

import importlib
import shutil
from pathlib import Path

import pytest
from torture.__main__ import run
from torture.plan import Plan
from torture.report import Result, Row

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


async def _found(family: str, folder: Path, without: str | None, only: str) -> Row:
    return await run(importlib.import_module(f"torture.{family}"), Plan(folder, without=without, only=only))


@needs_strace
@pytest.mark.parametrize("without", [None, "redeeming"])
async def test_a_device_that_does_not_note_down_that_it_redeems_redeems_twice_when_killed(
    tmp_path: Path, without: str | None
) -> None:
    row = await _found("killed", tmp_path, without, "device killed after sendto 2 of MODE")
    assert row.counts == {Result.DOUBLED if without else Result.SURVIVED: 1}, row.bad
