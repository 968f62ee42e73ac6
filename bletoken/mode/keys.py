"""What a key, token or claim code of MODE looks like. It never looks into one."""

import re
from typing import Final

LONGEST_SECRET: Final = 1024
"""Characters of the longest key or token; MODE's own are well below 300."""

_SECRET: Final = re.compile(rf"[!-~]{{1,{LONGEST_SECRET}}}")
"""Printable ASCII without spaces: keys stand in a header."""


def is_secret(value: str) -> bool:
    """Whether this can be a key or a token: 1 to 1024 printable ASCII characters without a space."""
    return _SECRET.fullmatch(value) is not None
