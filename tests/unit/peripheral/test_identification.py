"""The command that shows which device this is has an end, and takes all it started along."""

import asyncio
import os
from pathlib import Path

import pytest

from bletoken.errors import IdentifyError
from bletoken_peripheral import identification


async def ended(pid: int) -> None:
    """Wait until a process that was killed is dead."""
    while is_alive(pid):
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_a_command_runs_to_its_end_without_input_or_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    script = f"cat; echo loud; echo louder >&2; touch {tmp_path}/done"
    await identification.run(["sh", "-c", script], started=lambda: told.append("started"))
    assert told == ["started"]
    assert (tmp_path / "done").exists()
    assert capfd.readouterr() == ("", "")


async def test_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    await identification.run(["touch", f"{tmp_path}/$(touch evil); *"])
    assert [path.name for path in tmp_path.iterdir()] == ["$(touch evil); *"]


async def test_a_command_that_hangs_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identification, "LONGEST_S", 2)
    script = f"trap '' TERM INT HUP; sleep 600 & echo $! $$ > {tmp_path}/pids; wait; sleep 600"
    with pytest.raises(IdentifyError, match="was killed"):
        await identification.run(["sh", "-c", script])
    child, leader = map(int, (tmp_path / "pids").read_text().split())
    assert not is_alive(leader)
    await ended(child)


async def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    await identification.run(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid"])
    await ended(int((tmp_path / "pid").read_text()))


async def test_it_is_a_process_group_of_its_own(tmp_path: Path) -> None:
    await identification.run(["sh", "-c", f"cut -d' ' -f5 /proc/$$/stat > {tmp_path}/group"])
    assert int((tmp_path / "group").read_text()) != os.getpgid(0)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["/nowhere/blink"], "cannot be run: No such file"),
        (["/"], "cannot be run: Permission denied"),
        (["sh", "-c", "exit 3"], "exit code 3"),
        (["sh", "-c", "kill -9 $$"], "exit code -9"),
    ],
)
async def test_a_command_that_does_not_work_is_a_typed_error(command: list[str], complaint: str) -> None:
    with pytest.raises(IdentifyError, match=complaint):
        await identification.run(command)
