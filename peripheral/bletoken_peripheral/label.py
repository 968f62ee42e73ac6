"""The label as a picture: on a terminal, as SVG, as PNG, as sheets to print. Everything it makes is a secret."""

import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

import segno

from bletoken import files
from bletoken.errors import ExistsError, StorageError
from bletoken.protocol.setup_code import Label

WIDTH_MM: Final = 62
HEIGHT_MM: Final = 29
"""The size of one label."""

COLUMNS: Final = 3
ROWS: Final = 9
"""Labels on a sheet of A4, 210 by 297 mm."""

_GAP_MM: Final = 3
_LEFT_MM: Final = (210 - COLUMNS * WIDTH_MM - (COLUMNS - 1) * _GAP_MM) / 2
_TOP_MM: Final = (297 - ROWS * HEIGHT_MM - (ROWS - 1) * _GAP_MM) / 2
_LONGEST_TITLE: Final = 20


def terminal(label: Label, *, unicode: bool) -> str:
    """The QR code for a terminal, with the codes below.

    Args:
        label: The device's codes.
        unicode: Whether the terminal can show half blocks; otherwise colours draw the picture.
    """
    out = io.StringIO()
    _qr(label).terminal(out, border=2, compact=unicode)
    return "\n".join([out.getvalue().rstrip("\n"), "", *_lines(label)])


def svg(label: Label, title: str) -> str:
    """The label as an SVG picture of 62 by 29 mm, with the codes beside the QR code."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_MM}mm" height="{HEIGHT_MM}mm"'
        f' viewBox="0 0 {WIDTH_MM} {HEIGHT_MM}">{_drawn(label, title)}</svg>\n'
    )


def sheet(labels: Sequence[tuple[str, Label]]) -> str:
    """A page of A4 to print, as SVG: titles and labels, at most `COLUMNS` times `ROWS` of them, with lines to cut."""
    if len(labels) > COLUMNS * ROWS:
        raise ValueError(f"{len(labels)} labels do not fit on a sheet")
    parts = []
    for i, (title, label) in enumerate(labels):
        row, column = divmod(i, COLUMNS)
        x, y = _LEFT_MM + column * (WIDTH_MM + _GAP_MM), _TOP_MM + row * (HEIGHT_MM + _GAP_MM)
        frame = f'<rect width="{WIDTH_MM}" height="{HEIGHT_MM}" fill="none" stroke="silver" stroke-width="0.1"/>'
        parts.append(f'<g transform="translate({x:g} {y:g})">{_drawn(label, title)}{frame}</g>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="210mm" height="297mm" viewBox="0 0 210 297">'
        f"{''.join(parts)}</svg>\n"
    )


def _drawn(label: Label, title: str) -> str:
    code = _qr(label).svg_inline(scale=1, border=2, omitsize=True)
    if len(title) > _LONGEST_TITLE:
        title = title[: _LONGEST_TITLE - 1] + "\N{HORIZONTAL ELLIPSIS}"
    text = "".join(
        f'<text x="29" y="{7 + 5 * i}" font-size="2.6" font-family="monospace">{escape(line)}</text>'
        for i, line in enumerate([title, *_lines(label, width=16)])
    )
    return (
        f'<rect width="{WIDTH_MM}" height="{HEIGHT_MM}" fill="white"/>'
        f'<svg x="1" y="1" width="27" height="27">{code}</svg>{text}'
    )


def png(label: Label) -> bytes:
    """The QR code as a PNG picture."""
    out = io.BytesIO()
    _qr(label).save(out, kind="png", scale=8, border=4)
    return out.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a new file that only this user can read.

    Raises:
        StorageError: It exists, or cannot be written.
    """
    try:
        with files.translated(path, "write"), os.fdopen(_new(path), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except StorageError as e:
        if isinstance(e.__cause__, FileExistsError):
            raise ExistsError(f"{path} exists already") from e
        raise


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


def _qr(label: Label) -> segno.QRCode:
    return segno.make(label.qr.text, error="m", micro=False)


def _lines(label: Label, width: int = 60) -> list[str]:
    prefix, _, body = label.qr.text.partition(":")
    groups = " ".join(body[i : i + 5] for i in range(0, len(body), 5))
    lines = [f"{prefix}: {groups}"] if width > len(groups) else [f"{prefix}:", groups[:18].strip(), groups[18:]]
    return lines + ([f"PIN {label.pin.text}"] if label.pin else [])
