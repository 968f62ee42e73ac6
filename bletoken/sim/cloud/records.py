"""What the local MODE's records look like once read; they never change, and never show a secret."""

from dataclasses import dataclass, field
from typing import Literal

from bletoken.errors import UsageError

Role = Literal["owner", "member"]
"""What a member of a home may do: only an owner may change who its members are."""


@dataclass(frozen=True)
class Project:
    """A project of a developer.

    Attributes:
        on_demand: Its "On-demand Device Provisioning" option: devices are made with tokens, and not by hand.
    """

    id: int
    name: str
    on_demand: bool
    creation_ns: int


@dataclass(frozen=True)
class Session:
    """A user who signed in."""

    user_id: int
    project_id: int
    app_id: str
    expires_ns: int
    key: str = field(repr=False)


@dataclass(frozen=True)
class ProjectKey:
    """A key of a project, for its developer's own servers."""

    project_id: int
    key: str = field(repr=False)


@dataclass(frozen=True)
class User:
    """A user of a project."""

    id: int
    project_id: int
    email: str
    name: str


@dataclass(frozen=True)
class Home:
    """A home of a project."""

    id: int
    project_id: int
    name: str
    creation_ns: int


@dataclass(frozen=True)
class Member:
    """A user who belongs to a home."""

    user_id: int
    email: str
    name: str
    role: Role
    creation_ns: int


@dataclass(frozen=True)
class Token:
    """What is known of a provisioning token, without the token.

    Attributes:
        used_ns: When it was redeemed; None while it was not.
    """

    device_class: str
    tag: str
    expires_ns: int
    used_ns: int | None


@dataclass(frozen=True)
class Device:
    """A device: in a home, or, made ahead of time and not claimed yet, in none.

    Attributes:
        claim_code: What a user claims it by; None for a device that was made on demand.
        claim_expires_ns: When its claim mode ends; None while it is off.
        claim_ns: When it was claimed.
        connect_ns: When it last opened a command socket.
        disconnect_ns: When its last command socket closed.
    """

    id: int
    project_id: int
    home_id: int | None
    device_class: str
    name: str
    tag: str
    creation_ns: int
    claim_expires_ns: int | None = None
    claim_ns: int | None = None
    connect_ns: int | None = None
    disconnect_ns: int | None = None
    api_key: str = field(kw_only=True, repr=False)
    claim_code: str | None = field(default=None, kw_only=True, repr=False)

    def is_claimable(self, now_ns: int) -> bool:
        """Whether its claim mode is on."""
        return self.claim_expires_ns is not None and self.claim_expires_ns > now_ns


@dataclass(frozen=True)
class Seed:
    """What there must be: a project with an app and a device class, and a user who is a member of a home.

    Attributes:
        on_demand: The project's option; if None it is on in a new project, and stays as it is in one that is there.
    """

    project_id: int = 101
    app_id: str = "demo-app"
    email: str = "user@example.com"
    password: str = field(default="demo-password", repr=False)
    home_name: str = "Home"
    device_class: str = "demo-class"
    on_demand: bool | None = None


class TokenError(Exception):
    """A provisioning token cannot be redeemed.

    Attributes:
        why: Which kind of bad token it is.
    """

    def __init__(self, why: Literal["unknown", "expired", "used"]) -> None:
        super().__init__(why)
        self.why: Literal["unknown", "expired", "used"] = why


class ClaimError(Exception):
    """A device cannot be claimed, or its claim mode cannot be switched on.

    Attributes:
        why: Which kind of trouble it is.
    """

    def __init__(self, why: Literal["unknown", "in home", "not claimable"]) -> None:
        super().__init__(why)
        self.why: Literal["unknown", "in home", "not claimable"] = why


class MemberError(UsageError):
    """A home would be left without an owner.

    Make another member an owner first.
    """
