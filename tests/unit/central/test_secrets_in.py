"""How setup code, token and session key come in, and what happens to wrong ones."""

import io
import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import segno
from PIL import Image

from bletoken.errors import SetupCodeError, UsageError
from bletoken.protocol.setup_code import Label, QrSecret
from bletoken_central import cli, qr

CODE = QrSecret(bytes(range(16)))


def picture(tmp_path: Path, *texts: str) -> Path:
    canvas = Image.new("L", (400 * max(1, len(texts)), 400), 255)
    for i, text in enumerate(texts):
        out = io.BytesIO()
        segno.make(text, micro=False).save(out, kind="png", scale=8, border=4)
        canvas.paste(Image.open(out).convert("L"), (400 * i, 0))
    path = tmp_path / "label.png"
    canvas.save(path)
    return path


def test_a_picture_of_the_label_gives_the_code(tmp_path: Path) -> None:
    assert qr.read(picture(tmp_path, CODE.text)) == CODE


def test_other_codes_in_the_picture_do_not_matter(tmp_path: Path) -> None:
    assert qr.read(picture(tmp_path, "https://example.com", CODE.text)) == CODE


@pytest.mark.parametrize("texts", [(), ("https://example.com",)])
def test_a_picture_without_a_label_is_refused(tmp_path: Path, texts: tuple[str, ...]) -> None:
    with pytest.raises(SetupCodeError, match="no bletoken label"):
        qr.read(picture(tmp_path, *texts))


def test_a_picture_with_two_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupCodeError, match="more than one"):
        qr.read(picture(tmp_path, CODE.text, QrSecret(bytes(16)).text))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF89a" + bytes(3), bytes(1000)])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "label.png").write_bytes(content)
    with pytest.raises(UsageError):
        qr.read(tmp_path / "label.png")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "label.png")
    with pytest.raises(UsageError):
        qr.read(tmp_path / "label.png")


@pytest.mark.parametrize("text", [CODE.text, CODE.text.lower(), f"--code={CODE.text}"])
def test_a_setup_code_in_the_arguments_is_refused_and_not_repeated(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", text]) == 2
    out = capsys.readouterr()
    assert "seen by others" in out.err
    assert CODE.text[12:] not in (out.out + out.err).upper()


@pytest.mark.parametrize(
    ("token", "complaint"),
    [("", "1 to 1024"), ("two words", "1 to 1024"), ("x" * 1025, "1 to 1024"), ("tökén", "1 to 1024")],
)
def test_a_token_that_cannot_be_one_is_refused(
    tmp_path: Path, token: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").write_text(CODE.text)
    (tmp_path / "token").write_text(token)
    argv = ["push", "--code-file", str(tmp_path / "code"), "--token-file", str(tmp_path / "token")]
    assert cli.main([*argv, "--radio", "air:unix:/nowhere"]) == 2
    assert complaint in capsys.readouterr().err


def test_nobody_is_asked_where_nobody_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bletoken_central.cli", "push", "--radio", "air:unix:/nowhere", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["ok"], said["error"], said["exit_code"]) == (False, "Usage", 2)
    assert "--code-file" in said["message"]


def test_a_wrong_setup_code_in_a_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").write_text("BLETOKEN1:NONSENSE")
    assert cli.main(["push", "--code-file", str(tmp_path / "code"), "--radio", "air:unix:/nowhere"]) == 2
    assert "NONSENSE" not in capsys.readouterr().err


def test_a_missing_radio_has_its_own_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").write_text(Label.generate(secrets.token_bytes, with_pin=False).qr.text)
    (tmp_path / "token").write_text("token")
    argv = ["push", "--code-file", str(tmp_path / "code"), "--token-file", str(tmp_path / "token")]
    assert cli.main([*argv, "--radio", "air:unix:/nowhere"]) == 9
    assert "cannot be used" in capsys.readouterr().err
