"""MODE's endpoints, all of them; what MODE's documents leave open is asked of the settings."""

from starlette.routing import BaseRoute

from bletoken.sim.cloud.access import Access
from bletoken.sim.cloud.command_api import CommandApi
from bletoken.sim.cloud.core import Core
from bletoken.sim.cloud.device_api import DeviceApi
from bletoken.sim.cloud.home_api import HomeApi
from bletoken.sim.cloud.member_api import MemberApi
from bletoken.sim.cloud.session_api import SessionApi


def routes_of(core: Core) -> list[BaseRoute]:
    """The endpoints. Their paths are the templates that faults and the request log name them by."""
    access = Access(core)
    apis = (SessionApi, HomeApi, MemberApi, DeviceApi, CommandApi)
    return [route for api in apis for route in api(core, access).routes()]
