"""The label as a picture: on a terminal, as SVG, as PNG. Everything it makes is a secret."""

import io
import os
from html import escape
from pathlib import Path

import segno

from bletoken.errors import StorageError
from bletoken.protocol.setup_code import Label


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
    code = _qr(label).svg_inline(scale=1, border=2, omitsize=True)
    text = "".join(
        f'<text x="29" y="{7 + 5 * i}" font-size="2.6" font-family="monospace">{escape(line)}</text>'
        for i, line in enumerate([title, *_lines(label, width=16)])
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="62mm" height="29mm" viewBox="0 0 62 29">'
        '<rect width="62" height="29" fill="white"/>'
        f'<svg x="1" y="1" width="27" height="27">{code}</svg>{text}</svg>\n'
    )


def png(label: Label) -> bytes:
    """The QR code as a PNG picture."""
    out = io.BytesIO()
    _qr(label).save(out, kind="png", scale=8, border=4)
    return out.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a picture to a new file that only this user can read.

    Raises:
        StorageError: It exists, or cannot be written.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except FileExistsError as e:
        raise StorageError(f"{path} exists already") from e
    except OSError as e:
        raise StorageError(f"cannot write {path}: {e.strerror}") from e


def _qr(label: Label) -> segno.QRCode:
    return segno.make(label.qr.text, error="m", micro=False)


def _lines(label: Label, width: int = 60) -> list[str]:
    prefix, _, body = label.qr.text.partition(":")
    groups = " ".join(body[i : i + 5] for i in range(0, len(body), 5))
    lines = [f"{prefix}: {groups}"] if width > len(groups) else [f"{prefix}:", groups[:18].strip(), groups[18:]]
    return lines + ([f"PIN {label.pin.text}"] if label.pin else [])
