"""What a person who watches the device is told; it shows nothing itself."""

from bletoken.frozen import frozen


@frozen
class Progress:
    """Something happened that a person watching the device wants to know.

    Attributes:
        step: What, in a word or two.
        detail: More, for people; empty for none.
        device_id: MODE's id of the device, once there is one.
    """

    step: str
    detail: str = ""
    device_id: int | None = None
