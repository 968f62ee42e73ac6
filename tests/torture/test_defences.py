"""The torture proves something: with one defence taken out it finds what that defence is for."""

import importlib
import shutil
from pathlib import Path

import pytest
from torture import emulated, power, storage
from torture.__main__ import run
from torture.plan import NotPossibleError, Plan
from torture.report import Result
from torture.trace import Injection

from bletoken import files
from bletoken_peripheral.store import StateFolder

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


@pytest.fixture
def machine() -> None:
    """What it takes to cut a machine."""
    if why := emulated.missing():
        pytest.skip(f"no machine can be cut without {why}: scripts/torture installs it")
    try:
        emulated.kernel()
    except NotPossibleError as error:
        pytest.skip(str(error))


async def _found(family: str, folder: Path, without: str | None, only: str) -> set[Result]:
    """What the family finds without a defence, by the faults with this in their name."""
    row = await run(importlib.import_module(f"torture.{family}"), Plan(folder, without=without, only=only))
    assert row.trials, row.untried
    return {trial.result for trial in row.trials}


@needs_strace
async def test_a_device_that_does_not_note_down_that_it_redeems_does_it_twice_when_killed(tmp_path: Path) -> None:
    found = await _found("killed", tmp_path, "redeeming", "device killed before rename 1 of credentials.json")
    assert found == {Result.DOUBLED}


@needs_strace
async def test_a_file_that_is_written_over_the_old_one_is_lost_when_the_disk_is_full(tmp_path: Path) -> None:
    found = await _found("storage", tmp_path, "beside", "device: ENOSPC from write 3 of")
    assert found == {Result.LOST}


@needs_strace
async def test_a_file_that_is_gone_when_it_could_not_be_replaced_is_noticed(tmp_path: Path) -> None:
    found = await _found("storage", tmp_path, "old", "device: ENOSPC from fsync 3 of .journal.json.new")
    assert found == {Result.LOST}


@needs_strace
async def test_a_file_of_an_interrupted_write_that_blocks_the_next_one_is_noticed(tmp_path: Path) -> None:
    found = await _found("storage", tmp_path, "leftover", "a file of an earlier cut in the way of a file")
    assert found == {Result.LOST}


@needs_strace
async def test_a_call_that_did_not_fail_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_TRIES", 1)
    monkeypatch.setattr(storage, "_injection", lambda call, error: Injection(call.name, 1000, f"error={error}"))
    found = await _found("storage", tmp_path, None, "device: EIO once at rename 1 of credentials.json")
    assert found == {Result.LOST}


@needs_strace
async def test_a_file_that_is_made_for_its_group_is_noticed_even_where_the_umask_hides_it(tmp_path: Path) -> None:
    found = await _found("storage", tmp_path, "private", "files under the umask 077")
    assert found == {Result.LOST}


def test_a_file_that_is_read_without_a_look_at_whose_it_is_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "read", lambda path, **_: path.read_bytes())
    found: dict[str, set[Result]] = {"a link": set(), "open to its group": set(), "open to all": set()}
    for what in found:
        for trial in storage._unreadable(Plan(tmp_path, quick=True, only=f".json {what}")):
            if trial.fault.endswith(what):
                found[what].add(trial.result)
    assert found == {what: {Result.LOST} for what in found}


def test_wrong_pins_that_are_forgotten_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateFolder, "read_failures", lambda _: 0)
    trials = list(storage._unreadable(Plan(tmp_path, quick=True, only="guesses.json")))
    assert {trial.result for trial in trials} == {Result.LOST}


@needs_strace
@pytest.mark.parametrize(
    ("without", "only", "expected"),
    [
        ("fsync-file", "cut after rename 1 of journal.json, not redeemed, left: journal.json empty", Result.LOST),
        ("fsync-folder", "cut after sendto 2 of MODE, redeemed", Result.DOUBLED),
    ],
)
async def test_one_fsync_less_is_noticed_when_the_power_goes(
    tmp_path: Path, without: str, only: str, expected: Result
) -> None:
    assert expected in await _found("power", tmp_path, without, only)


@needs_strace
async def test_what_a_killed_companion_left_in_the_home_is_doubled_if_the_next_does_not_look(tmp_path: Path) -> None:
    found = await _found("killed", tmp_path, "leftovers", "removing companion killed before rename 3 of note.json")
    assert found == {Result.DOUBLED}


@needs_strace
async def test_a_note_that_is_not_synced_is_missed_when_the_power_goes(tmp_path: Path) -> None:
    assert Result.LOST in await _found("power", tmp_path, "fsync-file", "removing companion cut after rename 2 of")


@pytest.mark.long
@needs_strace
@pytest.mark.usefixtures("machine")
async def test_one_fsync_less_is_noticed_when_a_real_machine_is_cut(tmp_path: Path) -> None:
    found = await _found("power", tmp_path, "fsync-folder", f"{power.MACHINE_CUT} 4 once MODE made a device")
    assert found == {Result.DOUBLED}
