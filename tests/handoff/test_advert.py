"""What a device says to everybody in the room, octet by octet as a host on the air hears it."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from bumble.hci import HCI_LE_Advertising_Report_Event
from handoff.bench import Bench, until

from bletoken.protocol.setup_code import AdvertName
from bletoken.protocol.wire import SERVICE_UUID
from bletoken.sim.air.radio import Radio
from bletoken.sim.air.spec import RadioSpec

FLAGS = bytes.fromhex("020106")
"""General-discoverable, and no BR/EDR."""
SERVICE = bytes.fromhex("1107") + UUID(SERVICE_UUID).bytes[::-1]
"""The complete list of 128-bit service UUIDs."""


async def heard(bench: Bench, *, state: str) -> tuple[bytes, bytes, str]:
    """The advert, the scan response and the name of the one device on the air, once its name shows the state."""
    adverts: set[bytes] = set()
    responses: list[bytes] = []

    def listen(report: Any) -> None:
        is_response = report.event_type == HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP
        (responses.append if is_response else adverts.add)(report.data)

    radio = await Radio.open(RadioSpec.parse(bench.hub.radio).endpoint, name="listener")
    try:
        # Below Bumble's own view, which joins the two parts.
        radio.device.host.on("advertising_report", listen)
        await radio.start_scan(lambda _: None, is_active=True)
        await until(lambda: responses and responses[-1][12:13] == state.encode())
    finally:
        await radio.close()
    [advert] = adverts
    return advert, responses[-1], responses[-1][2:].decode("ascii")


async def test_the_advert_is_flags_and_service_and_the_scan_response_is_the_name(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    advert, response, name = await heard(bench, state="r")
    assert advert == FLAGS + SERVICE
    assert response == bytes([len(name) + 1, 0x09]) + name.encode("ascii")
    assert len(advert) <= 31
    assert len(response) <= 31
    parsed = AdvertName.parse(name)
    assert parsed is not None
    assert parsed.is_of(device.label.qr)


async def test_the_state_letter_follows_the_state_and_the_tag_stays_for_the_window(bench: Bench) -> None:
    device = bench.device()
    await device.start()
    _, _, before = await heard(bench, state="r")
    assert (await bench.push(device.label.qr, await bench.token())).exit_code == 0
    _, _, after = await heard(bench, state="p")
    assert after == before.replace("-1r-", "-1p-")


@pytest.mark.parametrize("bench", ["in-process"], indirect=True)
async def test_each_window_has_a_nonce_of_its_own(bench: Bench) -> None:
    device = bench.device()
    names = []
    for _ in range(2):
        await device.start()
        names.append((await heard(bench, state="r"))[2])
        await device.stop()
        await asyncio.sleep(0)
    assert names[0] != names[1]
    assert all((parsed := AdvertName.parse(name)) and parsed.is_of(device.label.qr) for name in names)
