"""How often MODE may be asked."""

from email.utils import parsedate_to_datetime

import httpx
import pytest
from unit.cloud.world import StartWorld, World, key_header
from websockets.exceptions import InvalidStatus


async def statuses(world: World, count: int, headers: dict[str, str]) -> list[int]:
    return [(await world.client.get("/auth", headers=headers)).status_code for _ in range(count)]


async def test_each_kind_of_key_has_its_own_limit_in_each_minute(start_world: StartWorld) -> None:
    now_ns = 600 * 10**9
    world = await start_world(clock=lambda: now_ns, requests_of_device=3, requests_of_user=4, requests_of_project_key=2)
    # Making the device took one request of the user.
    device = key_header((await world.device())["apiKey"])
    project, other = world.project, world.project
    for _ in range(2):
        assert await statuses(world, 4, device) == [200] * 3 + [429]
        assert await statuses(world, 4, project) == [200] * 2 + [429] * 2
        assert await statuses(world, 1, other) == [200]
        now_ns += 60 * 10**9
    assert await statuses(world, 5, world.user) == [200] * 4 + [429]
    # Nobody's requests are nobody's.
    assert await statuses(world, 20, {}) == [200] * 20


async def test_all_keys_of_a_project_share_one_limit(start_world: StartWorld) -> None:
    world = await start_world(clock=lambda: 0, requests_of_project=5)
    device = key_header((await world.device())["apiKey"])
    assert await statuses(world, 2, device) == [200] * 2
    assert await statuses(world, 2, world.project) == [200] * 2
    assert await statuses(world, 1, world.user) == [429]
    elsewhere = key_header((await world.seed_again(projectId=202))["userKey"])
    assert await statuses(world, 1, elsewhere) == [200]


@pytest.mark.parametrize("form", ["seconds", "http-date"])
async def test_a_refusal_says_when_to_come_back(start_world: StartWorld, form: str) -> None:
    now_ns = 600 * 10**9 + 1
    world = await start_world(clock=lambda: now_ns, requests_of_user=1, retry_after_form=form)

    async def retry_after(answer: httpx.Response) -> str:
        assert (answer.status_code, answer.json()) == (429, {"reason": "RATE_LIMIT_EXCEEDED"})
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        return answer.headers["Retry-After"]

    assert await statuses(world, 1, world.user) == [200]
    said = await retry_after(await world.client.get("/auth", headers=world.user))
    now_ns = 660 * 10**9 - 1
    said_late = await retry_after(await world.client.get(world.home_path, headers=world.user))
    if form == "seconds":
        assert (said, said_late) == ("60", "1")
    else:
        assert said == said_late
        assert parsedate_to_datetime(said).timestamp() == 660
    now_ns += 1
    assert await statuses(world, 1, world.user) == [200]


async def test_zero_is_no_limit(start_world: StartWorld) -> None:
    world = await start_world(clock=lambda: 0, requests_of_user=0, requests_of_project=0)
    assert set(await statuses(world, 50, world.user)) == {200}


async def test_sockets_count_as_requests(start_world: StartWorld) -> None:
    world = await start_world(clock=lambda: 0, requests_of_device=1)
    device = await world.device()
    async with world.commands(device):
        with pytest.raises(InvalidStatus) as caught:
            await world.commands(device)
        assert caught.value.response.status_code == 429
        assert "Retry-After" in caught.value.response.headers
