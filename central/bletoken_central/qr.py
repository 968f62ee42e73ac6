"""A setup code from a picture of the label; it opens no camera."""

import io
import warnings
from pathlib import Path
from typing import Final

import zxingcpp
from PIL import Image

from bletoken.errors import SetupCodeError, UsageError
from bletoken.protocol.setup_code import QR_PREFIX, SetupCode, parse_setup_code

_LARGEST_FILE: Final = 32 * 2**20
_MOST_PIXELS: Final = 64_000_000


def read(path: Path) -> SetupCode:
    """The setup code in a picture (PNG, JPEG, ...).

    Raises:
        UsageError: The picture cannot be read, or is too large.
        SetupCodeError: It shows no bletoken code, or more than one.
    """
    try:
        with path.open("rb") as file:
            octets = file.read(_LARGEST_FILE + 1)
    except OSError as e:
        raise UsageError(f"cannot read the picture {path}: {e.strerror}") from e
    if len(octets) > _LARGEST_FILE:
        raise UsageError(f"the picture {path} is larger than {_LARGEST_FILE // 2**20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(octets))
            if image.width * image.height > _MOST_PIXELS:
                raise UsageError(f"the picture {path} has too many pixels")
            grey = image.convert("L")
    except UsageError:
        raise
    # Pillow's readers raise whatever a hostile file provokes: OSError, SyntaxError, struct.error, its bomb warning.
    except Exception as e:
        raise UsageError(f"{path} is no picture that can be read") from e
    texts = {
        found.text
        for found in zxingcpp.read_barcodes(grey, formats=zxingcpp.BarcodeFormats([zxingcpp.BarcodeFormat.QRCode]))
    }
    ours = [text for text in texts if text.upper().startswith(QR_PREFIX)]
    if len(ours) != 1:
        what = "more than one bletoken label" if ours else "no bletoken label"
        raise SetupCodeError(f"the picture {path} shows {what}")
    return parse_setup_code(ours[0])
