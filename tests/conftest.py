"""What all tests share: versions in the header, records of those that fail, and real BlueZ where there is one."""

import os
import platform
import re
import shutil
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from bluez import stack

_RECORDS = pytest.StashKey[Path]()
_FAILED = pytest.StashKey[bool]()


def pytest_report_header() -> str:
    libraries = [f"{name} {version(name)}" for name in ("bless", "bleak", "bumble")]
    bluez = [f"BlueZ {stack.version()}"] if not stack.missing() else []
    return ", ".join([f"kernel {platform.release()}", *bluez, *libraries, f"Python {platform.python_version()}"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("bluez"):
        if why := stack.missing():
            pytest.skip(why)
        if why := stack.broken():
            pytest.fail(why)


@pytest.fixture(scope="session")
def bluetoothd() -> Iterator[stack.Daemon]:
    """bluetoothd, for the whole run."""
    with stack.running_daemon() as daemon:
        yield daemon


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
    if (folder := item.stash.get(_RECORDS, None)) is None:
        return report
    kept = _artifacts(item.config) / re.sub(r"[^A-Za-z0-9._-]+", "-", item.nodeid.removeprefix("tests/"))[-150:]
    if report.failed:
        item.stash[_FAILED] = True
        report.sections.append(("Records", f"kept in {kept}"))
    if call.when == "teardown":
        if item.stash.get(_FAILED, False):
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept)
        shutil.rmtree(folder)
    return report


def _artifacts(config: pytest.Config) -> Path:
    return Path(os.environ.get("BLETOKEN_ARTIFACTS") or config.rootpath / "artifacts" / "tests")
