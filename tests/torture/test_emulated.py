"""What is understood of the emulated machine's console, where anybody may say anything."""

import base64

import pytest
from torture.emulated import Console


def test_devices_and_files_are_told_apart() -> None:
    console = Console()
    for line in (
        'd1: {"step": "advertising"}',
        'd2: {"ok": false, "message": "the path /dev/x= y cannot be read"}',
        f"d1/journal.json= {base64.b64encode(b'{}').decode()}",
        "d1/empty= ",
        "d1/= shown",
    ):
        console.take(line)
    assert console.steps == {"d1": ["advertising"]}
    assert console.ended == {"d2": "the path /dev/x= y cannot be read"}
    assert console.files == {"d1": {"journal.json": b"{}", "empty": b"", "": b""}}
    console.clear()
    assert not console.steps
    assert not console.ended


@pytest.mark.parametrize(
    "line",
    [
        "d1: 5",
        "d1: null",
        'd1: ["step"]',
        'd1: "step"',
        "d1: File /usr/lib/x.py, line 5: a= b",
        "d1: " + "[" * 100_000,
        "d1/a b= shown",
        "d1/a= b",
        "d1/a= shown",
        "random: crng init done",
        "",
    ],
    ids=lambda line: line[:20],
)
def test_what_others_say_is_nothing(line: str) -> None:
    console = Console()
    console.take(line)
    assert (console.steps, console.ended, console.files) == ({}, {}, {})
    assert list(console.last) == [line]
