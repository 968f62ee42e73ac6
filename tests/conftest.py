"""What all tests share: versions in the header, records of those that fail, and real BlueZ where there is one."""

import os
import platform
import re
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import pytest
from bluez import stack
from hil.rig import OPTIONS, Rig, add_options
from hypothesis import settings

# How long an example takes says something about the machine only.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

_RIG = pytest.StashKey[Rig | None]()
_RECORDS = pytest.StashKey[Path]()
_FAILED = pytest.StashKey[bool]()
_BEGAN = pytest.StashKey[float]()
_RECORDERS = pytest.StashKey[list[stack.Recorder]]()
_FAILURES = pytest.StashKey[dict[str, str | None]]()
"""How BlueZ died in each test that failed, if it did."""


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FAILURES] = {}
    config.stash[_RECORDERS] = []
    config.stash[_RIG] = Rig.of({name: config.getoption(name) for name in OPTIONS})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_report_header() -> str:
    libraries = [f"{name} {version(name)}" for name in ("bless", "bleak", "bumble")]
    bluez = [f"BlueZ {stack.version()}"] if not stack.missing() else []
    return ", ".join([f"kernel {platform.release()}", *bluez, *libraries, f"Python {platform.python_version()}"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEGAN] = time.time()
    for recorder in item.config.stash[_RECORDERS]:
        recorder.begin()
    if item.get_closest_marker("hardware") and not item.config.stash[_RIG]:
        pytest.skip("it takes real adapters: see tests/hil/README.md")
    if not item.get_closest_marker("bluez"):
        return
    if why := stack.missing():
        pytest.skip(why)
    if why := stack.broken():
        pytest.fail(why)


@pytest.fixture(scope="session")
def bluetoothd(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Daemon]:
    """bluetoothd, for the whole run, and records of it."""
    with stack.running_daemon() as daemon, stack.Recorder.running(tmp_path_factory.mktemp("recorded")) as recorder:
        request.config.stash[_RECORDERS].append(recorder)
        yield daemon


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The real adapters, and records of what they do."""
    rig = request.config.stash[_RIG]
    assert rig, "a test with this fixture is marked as one of hardware"
    with ExitStack() as recording:
        for there in ([], rig.there) if rig.there else ([],):
            recorder = stack.Recorder.running(tmp_path_factory.mktemp("recorded"), there)
            request.config.stash[_RECORDERS].append(recording.enter_context(recorder))
        yield rig


@pytest.fixture
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder that outlives the run if the test fails."""
    folder = tmp_path / "records"
    folder.mkdir()
    request.node.stash[_RECORDS] = folder
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the records of what fails; at the end, when they are complete."""
    report = yield
    kept = _artifacts(item.config) / re.sub(r"[^A-Za-z0-9._-]+", "-", item.nodeid.removeprefix("tests/"))[-150:]
    recorders = item.config.stash[_RECORDERS] if any(map(item.get_closest_marker, ("bluez", "hardware"))) else []
    folder = item.stash.get(_RECORDS, None)
    if report.failed:
        item.stash[_FAILED] = True
        failures = item.config.stash[_FAILURES]
        if item.get_closest_marker("bluez") and (how := stack.death(item.stash[_BEGAN])):
            report.sections.append(("BlueZ itself died", how))
            failures[item.nodeid] = how
        failures.setdefault(item.nodeid, None)
        if folder or recorders:
            report.sections.append(("Records", f"kept in {kept}"))
    if call.when == "teardown":
        if item.stash.get(_FAILED, False) and (folder or recorders):
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            if folder:
                shutil.copytree(folder, kept, dirs_exist_ok=True)
            for recorder in recorders:
                recorder.keep(kept)
        if folder:
            shutil.rmtree(folder)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say so loudly where BlueZ itself died, and name the tests for scripts/bluez where nothing else failed."""
    failures = config.stash[_FAILURES]
    deaths = {test: how for test, how in failures.items() if how}
    if deaths:
        terminalreporter.section("BlueZ itself died")
        for test, how in deaths.items():
            terminalreporter.line(f"{how} in {test}")
        if deaths == failures and (again := os.environ.get("BLETOKEN_TEST_AGAIN")):
            Path(again).write_text("".join(f"{test}\n" for test in deaths))


def _artifacts(config: pytest.Config) -> Path:
    return Path(os.environ.get("BLETOKEN_ARTIFACTS") or config.rootpath / "artifacts" / "tests")
