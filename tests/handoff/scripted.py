"""A device that knows its label and says what a test tells it to."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bletoken.protocol.device import DeviceMachine, Output, Requested, Send, SessionId
from bletoken.protocol.guesses import GuessRecord
from bletoken.protocol.setup_code import AdvertName, Label
from bletoken.protocol.wire import (
    Action,
    ClearCode,
    ClearStatus,
    CoarseState,
    MessageType,
    Provision,
    Status,
    token_ref,
)
from bletoken_peripheral.gatt_server import GattServer

Script = Callable[[int, bytes], list[Status]]
"""Makes the statuses that answer a token: gets the request's counter and the token's reference."""


class ScriptedDevice:
    """Answers every token as its script says, and every first message with a clear status if it has one to say."""

    def __init__(self, label: Label, script: Script | None = None, clear: ClearCode | None = None) -> None:
        self._label = label
        self._script = script
        self._clear = clear
        self._machine = DeviceMachine(
            label,
            guesses=GuessRecord(0, 0),
            save_guesses=lambda _: None,
            entropy=secrets.token_bytes,
            actions=list(Action),
            state=CoarseState.READY,
        )
        self._server: GattServer | None = None

    @asynccontextmanager
    async def on_air(self, radio: str) -> AsyncIterator[None]:
        name = str(AdvertName("r", self._label.qr.advert_tag(secrets.token_bytes(2))))
        async with GattServer(radio, name, self) as self._server:
            yield

    def connected(self, peer: str) -> None:
        self._machine.connected(peer, time.monotonic())

    def disconnected(self, peer: str) -> None:
        self._machine.disconnected(peer)

    def radio_lost(self) -> None: ...
    def radio_away(self, why: str) -> None: ...
    def radio_back(self) -> None: ...

    def hello(self, peer: str) -> bytes:
        return self._machine.hello(peer)

    def token_written(self, peer: str, frame: bytes) -> None:
        message = self._machine.frame_received(peer, frame, time.monotonic())
        if message is not None:
            asyncio.get_running_loop().call_soon(self._message, peer, message)

    def _message(self, peer: str, message: bytes) -> None:
        if self._clear is not None and message[0] == MessageType.FIRST:
            self._carry_out([Send(peer, ClearStatus(self._clear, CoarseState.READY, 7, message[3:11]).encode())])
            return
        self._carry_out(self._machine.message_received(peer, message, time.monotonic()))

    def _carry_out(self, outputs: list[Output]) -> None:
        assert self._server is not None
        for output in outputs:
            if isinstance(output, Send):
                self._server.send(output.peer, output.message)
            elif isinstance(output, Requested):
                self._requested(output.session, output.counter, output.request)

    def _requested(self, session: SessionId, counter: int, request: object) -> None:
        assert self._script is not None
        reference = token_ref(request.token) if isinstance(request, Provision) else bytes(16)
        for status in self._script(counter, reference):
            self._carry_out(self._machine.send(session, status))
