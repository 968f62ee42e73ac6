"""Writes every vector, and the generated parts of PROTOCOL.md."""

import json
from pathlib import Path
from typing import Any, Final

from vectors.maker import document, plain, scenarios

FOLDER: Final = Path(__file__).parents[1]
PROTOCOL: Final = FOLDER.parents[1] / "PROTOCOL.md"


def contents() -> dict[Path, Any]:
    """What each file holds."""
    files = {FOLDER / f"{name}.json": content for name, content in plain.all_files().items()}
    return files | {FOLDER / "transcripts" / f"{n}.json": content for n, content in scenarios.transcripts().items()}


def main() -> None:
    for path, content in contents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PROTOCOL.write_text(document.filled_in(PROTOCOL.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
