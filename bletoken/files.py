"""Private files, written whole or not at all, and read without trust. It knows nothing of what is in them.

A file is written beside the old one, synced, renamed over it, and the folder synced: after a power cut there is the
old content or the new one. Files are 0600 from their first instant, and links are not followed.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bletoken.errors import StorageError

LARGEST: Final = 65536
"""Octets of the largest file that is read."""

# Windows has none of these; there a file's folder decides who may read it.
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_WAIT: Final = getattr(os, "O_NONBLOCK", 0)
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0)
_HAS_OWNERS: Final = hasattr(os, "geteuid")


class MissingFileError(StorageError):
    """There is no such file.

    Check the path; what makes the file may have to run first.
    """


@contextlib.contextmanager
def translated(path: Path, verb: str) -> Iterator[None]:
    """Turn what the operating system raises into `StorageError`; `verb` says what was tried."""
    try:
        yield
    except FileNotFoundError as e:
        raise MissingFileError(f"cannot {verb} {path}: it does not exist") from e
    except OSError as e:
        raise StorageError(f"cannot {verb} {path}: {e.strerror}") from e


def check_folder(path: Path) -> None:
    """Refuse a folder that others could change or read.

    Raises:
        StorageError: It is missing, a link, somebody else's, or open to others.
    """
    with translated(path, "open"):
        info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise StorageError(f"{path} is not a folder of its own (a link or a file)")
    if _HAS_OWNERS and info.st_uid != os.geteuid():
        raise StorageError(f"{path} belongs to another user")
    if _HAS_OWNERS and info.st_mode & 0o077:
        raise StorageError(f"{path} is open to other users; make it private: chmod 700 {path}")


def make_folder(path: Path) -> None:
    """Make a private folder, and each that is missing on the way to it, durably, unless it is there.

    Raises:
        StorageError: It cannot be made, or what is there is not ours alone.
    """
    with translated(path, "create"):
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in missing or [path]:
            # A file in it is only as durable as its name, and whoever made it may have been killed before this. What
            # may be written to and not read cannot be synced.
            with contextlib.suppress(PermissionError):
                sync_folder(folder.parent)
    check_folder(path)


def read(path: Path, *, of_root: bool = False) -> bytes:
    """The content of a private file.

    Args:
        path: The file.
        of_root: Whether it may be root's instead, who may let a group read it: systemd hands credentials to a service
            so. (What looks like the group's permission is the mask of an access list with that one service's user.)

    Raises:
        MissingFileError: There is none.
        StorageError: It is no plain file of this user alone, too large, or cannot be read.
    """
    with translated(path, "read"):
        fd = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            is_roots = of_root and info.st_uid == 0
            if not stat.S_ISREG(info.st_mode) or (_HAS_OWNERS and not is_roots and info.st_uid != os.geteuid()):
                raise StorageError(f"{path} is not a plain file of this user")
            if _HAS_OWNERS and info.st_mode & (0o037 if is_roots else 0o077):
                raise StorageError(f"{path} is open to other users; make it private: chmod 600 {path}")
            octets = file.read(LARGEST + 1)
    if len(octets) > LARGEST:
        raise StorageError(f"{path} is too large")
    return octets


def replace(path: Path, octets: bytes) -> None:
    """Write a private file durably: when this returns, a power cut leaves the new content.

    Only one process at a time may replace a file.

    Raises:
        StorageError: It cannot be written; the old content is intact.
    """
    fresh = path.with_name(f".{path.name}.new")
    with translated(path, "write"):
        # What an earlier cut left behind is in nobody's use.
        fresh.unlink(missing_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(fd)
            fresh.replace(path)
        except OSError:
            # It may hold a secret.
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        sync_folder(path.parent)


def erase(path: Path) -> None:
    """Remove a file durably; that it is not there is fine.

    Raises:
        StorageError: It cannot be removed.
    """
    with translated(path, "erase"):
        path.with_name(f".{path.name}.new").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    if not _FOLDER:
        return
    fd = os.open(path, os.O_RDONLY | _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
