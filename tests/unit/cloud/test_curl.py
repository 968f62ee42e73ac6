"""The examples of MODE's provisioning document, with the same curl commands, against the local MODE."""

import asyncio
import json
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from unit.cloud.world import World

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

DOCUMENTED_HEADERS = """\
Access-Control-Allow-Credentials: false
Access-Control-Allow-Origin: *
Access-Control-Expose-Headers: X-Xsrf-Guard
Content-Type: application/json; charset=utf-8
Date: """
"""What MODE's document shows of both answers, up to the date."""


async def curl(world: World, api_key: str, data: str) -> tuple[str, str, str]:
    """The answer's status line, headers and body."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "--noproxy", "*", "--silent", "--show-error"),
        # From here on as in the document.
        *("-i", "-N", "-H", f"Authorization: ModeCloud {api_key}", "--data", data),
        f"{world.server.url}/deviceRegistration",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    head, _, body = output.decode().partition("\r\n\r\n")
    status, _, headers = head.partition("\r\n")
    return status, headers.replace("\r\n", "\n"), body


def has_documented_headers(headers: str) -> bool:
    date = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"
    # The document leaves out how long the body is, which every answer has to say somehow.
    return re.fullmatch(re.escape(DOCUMENTED_HEADERS) + date + r"\nContent-Length: \d+", headers) is not None


async def test_the_example_of_switching_claim_mode_on_gives_the_documented_answer(world: World) -> None:
    await world.seed_again(onDemand=False)
    device = await world.made_device()
    began = datetime.now(UTC)
    status, headers, body = await curl(world, device["apiKey"], f"deviceId={device['id']}&claimable=1&duration=300")
    assert status == "HTTP/1.1 200 OK"
    assert has_documented_headers(headers), headers
    match = re.fullmatch(r'\{"claimExpirationTime":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{9}Z"\}', body)
    assert match, body
    expires = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    assert timedelta(seconds=299) <= expires - began <= timedelta(seconds=330)


async def test_the_example_with_a_wrong_device_id_gives_the_documented_answer(world: World) -> None:
    await world.seed_again(onDemand=False)
    device = await world.made_device()
    status, headers, body = await curl(world, device["apiKey"], "deviceId=99&claimable=1&duration=300")
    assert status == "HTTP/1.1 403 Forbidden"
    assert has_documented_headers(headers), headers
    assert body == '{"reason":"MATCHING_DEVICE_ONLY"}'
    assert json.loads(body) == {"reason": "MATCHING_DEVICE_ONLY"}
