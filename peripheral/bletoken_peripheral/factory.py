"""The setup codes of many devices at once: files to give to `init`, a list, and sheets to print. All are secrets."""

import csv
import io
from pathlib import Path
from typing import Final

from bletoken import files
from bletoken.errors import ExistsError, UsageError
from bletoken.protocol.setup_code import Entropy, Label
from bletoken_peripheral import label as pictures
from bletoken_peripheral import store

LARGEST_BATCH: Final = 10_000
"""Devices of the largest batch."""

LARGEST_SERIAL: Final = 99_999_999

CODES_FILE: Final = "codes.csv"
"""Serial number, QR text and PIN of each device. It comes last: where it is, the batch is complete."""


def make(
    folder: Path, count: int, *, title: str, entropy: Entropy, first_serial: int = 1, with_pin: bool = True
) -> list[Path]:
    """Make fresh setup codes for so many devices, each its own.

    Args:
        folder: A folder that does not exist yet; it is made, 0700, and every file in it 0600.
        count: How many devices.
        title: What each label says before the serial number.
        entropy: Fresh random octets.
        first_serial: The serial number of the first; the others follow.
        with_pin: Whether they have a PIN.

    Returns:
        The files: one prepared code for each device, the sheets, the list.

    Raises:
        UsageError: A number is out of bounds.
        StorageError: The folder exists, or a file cannot be written.
    """
    if not 1 <= count <= LARGEST_BATCH:
        raise UsageError(f"a batch has 1 to {LARGEST_BATCH} devices")
    if not 0 <= first_serial <= LARGEST_SERIAL - count:
        raise UsageError(f"serial numbers go from 0 to {LARGEST_SERIAL}")
    if folder.exists() or folder.is_symlink():
        # A code that was printed already must not be mixed up with others.
        raise ExistsError(f"{folder} exists already; a batch takes a folder of its own")
    files.make_folder(folder)
    digits = max(4, len(str(first_serial + count - 1)))
    batch = [
        (f"{serial:0{digits}}", Label.generate(entropy, with_pin=with_pin))
        for serial in range(first_serial, first_serial + count)
    ]
    contents = {f"{serial}.json": store.code_file(label) for serial, label in batch}
    page = pictures.COLUMNS * pictures.ROWS
    for number, begin in enumerate(range(0, count, page), 1):
        labels = [(f"{_short(title, digits)} {serial}", label) for serial, label in batch[begin : begin + page]]
        contents[f"sheet-{number}.svg"] = pictures.sheet(labels).encode()
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["serial", "qr", "pin"])
    writer.writerows([serial, label.qr.text, label.pin.text if label.pin else ""] for serial, label in batch)
    contents[CODES_FILE] = rows.getvalue().encode()
    for name, content in contents.items():
        pictures.write(folder / name, content)
    with files.translated(folder, "write"):
        files.sync_folder(folder)
    return [folder / name for name in contents]


def _short(title: str, digits: int) -> str:
    """The title cut so that the serial number behind it is never what gives way."""
    return title[: 19 - digits]
