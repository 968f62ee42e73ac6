"""What a person is asked at a terminal, by a program of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

pty = pytest.importorskip("pty", reason="this platform has no terminals that a program can hold the other end of")

ASK = """
import sys
from bletoken import console
def ask():
    print(repr(console.run(console.answer("Which? "))), flush=True)
    return 0
sys.exit(console.run_command(ask, as_json=False))
"""

INTERRUPTED_ELSEWHERE = """
import asyncio, signal, sys, threading, time
from bletoken import console
def interrupt():
    time.sleep(0.5)  # By now the event loop sleeps.
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
async def wait():
    threading.Thread(target=interrupt).start()
    await asyncio.Event().wait()
sys.exit(console.run_command(lambda: console.run(wait()), as_json=False))
"""


def _heed_ctrl_c() -> None:
    # Whoever starts the tests in the background has Ctrl-C ignored, and every program would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Asked:
    """A program that asks, at a terminal whose other end is here."""

    def __init__(self) -> None:
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ASK], stdin=theirs, stdout=theirs, preexec_fn=_heed_ctrl_c
        )
        os.close(theirs)
        assert os.read(self.terminal, 100) == b"Which? "

    def said(self) -> str:
        said = b""
        with contextlib.suppress(OSError):  # Nobody holds the other end any more.
            while more := os.read(self.terminal, 100):
                said += more
        return said.decode("utf-8", "replace").splitlines()[-1]


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.process.kill()
    made.process.wait()
    os.close(made.terminal)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [(b" 1001 \n", "'1001'"), (b"\n", "''"), (b"\x04", "''"), (b"\xff\n", "'\N{REPLACEMENT CHARACTER}'")],
)
def test_one_line_is_the_answer_and_the_end_of_input_is_none(asked: Asked, typed: bytes, answer: str) -> None:
    os.write(asked.terminal, typed)
    assert asked.process.wait(30) == 0
    assert asked.said() == answer


def test_a_terminal_that_goes_away_is_the_end_of_input() -> None:
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", ASK]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.close(theirs)
        assert process.stdout is not None
        assert process.stdout.read(len("Which? ")) == "Which? "
        # It is told of the end in the middle of reading, not before.
        time.sleep(0.5)
        os.close(terminal)
        try:
            assert process.communicate(timeout=30) == ("''\n", "")
        finally:
            process.kill()
    assert process.returncode == 0


def test_ctrl_c_at_the_question_ends_it_at_once(asked: Asked) -> None:
    asked.process.send_signal(signal.SIGINT)
    assert asked.process.wait(30) == 130


def test_ctrl_c_that_the_kernel_gives_to_another_thread_wakes_the_event_loop() -> None:
    command = [sys.executable, "-c", INTERRUPTED_ELSEWHERE]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False, preexec_fn=_heed_ctrl_c)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_a_job_in_the_background_which_the_shell_has_ignore_ctrl_c_goes_on() -> None:
    command = [sys.executable, "-c", INTERRUPTED_ELSEWHERE.replace("asyncio.Event().wait()", "asyncio.sleep(1)")]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False, preexec_fn=_ignore_ctrl_c)
    assert (ended.stdout, ended.stderr) == (b"", b"")
    assert ended.returncode == 0
