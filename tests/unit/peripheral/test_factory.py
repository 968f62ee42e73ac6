"""A batch of setup codes: each its own, all private, and each taken by one device."""

import csv
import secrets
import stat
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bletoken.errors import StorageError, UsageError
from bletoken.protocol.setup_code import Label, parse_setup_code
from bletoken_peripheral import factory, store
from bletoken_peripheral import label as pictures


def make(folder: Path, count: int, *, title: str = "lamp", first_serial: int = 1, with_pin: bool = True) -> list[Path]:
    return factory.make(
        folder, count, title=title, entropy=secrets.token_bytes, first_serial=first_serial, with_pin=with_pin
    )


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_list_code_files_and_sheets_agree(tmp_path: Path) -> None:
    count = pictures.COLUMNS * pictures.ROWS + 1
    made = make(tmp_path / "batch", count)
    assert sorted(made) == sorted((tmp_path / "batch").iterdir())
    with (tmp_path / "batch" / "codes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["serial"] for row in rows] == [f"{serial:04}" for serial in range(1, count + 1)]
    assert len({row["qr"] for row in rows}) == len({row["pin"] for row in rows}) == count
    printed = texts(tmp_path / "batch" / "sheet-1.svg") + texts(tmp_path / "batch" / "sheet-2.svg")
    for row in rows:
        path = tmp_path / "batch" / f"{row['serial']}.json"
        label = store.parse_code_file(path.read_bytes(), "it")
        assert label.pin is not None
        assert (label.qr.text, label.pin.text) == (row["qr"], row["pin"])
        assert (parse_setup_code(row["qr"]), parse_setup_code(row["pin"])) == (label.qr, label.pin)
        assert f"lamp {row['serial']}" in printed
        assert f"PIN {row['pin']}" in printed
    assert not (tmp_path / "batch" / "sheet-3.svg").exists()


def test_everything_is_private(tmp_path: Path) -> None:
    for path in make(tmp_path / "batch", 2):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "batch").stat().st_mode) == 0o700


def test_a_batch_may_have_no_pins(tmp_path: Path) -> None:
    make(tmp_path / "batch", 1, with_pin=False)
    assert store.parse_code_file((tmp_path / "batch" / "0001.json").read_bytes(), "it").pin is None
    assert not any("PIN" in text for text in texts(tmp_path / "batch" / "sheet-1.svg"))


def test_serial_numbers_go_on_and_are_never_what_gives_way_on_the_label(tmp_path: Path) -> None:
    make(tmp_path / "batch", 2, title="a very long device class <&>", first_serial=99_999)
    printed = texts(tmp_path / "batch" / "sheet-1.svg")
    assert [text for text in printed if text.startswith("a very")] == ["a very long d 099999", "a very long d 100000"]


def test_labels_on_a_sheet_lie_beside_each_other_on_the_page(tmp_path: Path) -> None:
    labels = [("lamp", Label.generate(secrets.token_bytes, with_pin=True))] * pictures.COLUMNS * pictures.ROWS
    page = ET.fromstring(pictures.sheet(labels))
    places = [
        tuple(map(float, group.attrib["transform"].removeprefix("translate(").removesuffix(")").split()))
        for group in page.iter("{http://www.w3.org/2000/svg}g")
        if "transform" in group.attrib
    ]
    mine = [place for place in places if len(place) == 2][: len(labels)]
    assert len(set(mine)) == len(labels)
    assert all(5 <= x <= 210 - 5 - pictures.WIDTH_MM and 5 <= y <= 297 - 5 - pictures.HEIGHT_MM for x, y in mine)
    with pytest.raises(ValueError, match="do not fit"):
        pictures.sheet([*labels, labels[0]])


def test_a_folder_that_exists_is_never_mixed_up(tmp_path: Path) -> None:
    make(tmp_path / "batch", 1)
    before = (tmp_path / "batch" / "codes.csv").read_bytes()
    with pytest.raises(StorageError, match="exists already"):
        make(tmp_path / "batch", 1)
    assert (tmp_path / "batch" / "codes.csv").read_bytes() == before


@pytest.mark.parametrize(("count", "first_serial"), [(0, 1), (-1, 1), (10_001, 1), (1, -1), (1, 99_999_999)])
def test_numbers_out_of_bounds_are_refused(tmp_path: Path, count: int, first_serial: int) -> None:
    with pytest.raises(UsageError):
        make(tmp_path / "batch", count, first_serial=first_serial)
    assert not (tmp_path / "batch").exists()


def test_a_label_holds_what_zxing_reads(tmp_path: Path) -> None:
    from bletoken_central import qr

    label = Label.generate(secrets.token_bytes, with_pin=True)
    (tmp_path / "label.png").write_bytes(pictures.png(label))
    assert qr.read(tmp_path / "label.png") == label.qr
