"""What `status` tells of a device, for programs and for people; it reads and asks nothing itself."""

from collections.abc import Mapping
from typing import Any, Final

from bletoken import console
from bletoken.mode.credentials import Credentials
from bletoken.protocol.guesses import FREE_FAILURES, STOP_AT
from bletoken.protocol.setup_code import Label
from bletoken_peripheral import redemption
from bletoken_peripheral.claiming import ClaimRecord
from bletoken_peripheral.redemption import Journal, Phase

_PINS: Final = {
    "none": "there is none on the label",
    "ready": "ready",
    "delayed": "ready, but each wrong one makes the next one wait",
    "stopped": f"stopped after {STOP_AT} failures",
    "damaged": "stopped: the record of failures is missing or damaged",
}
"""The PIN's states, in words."""


def overview(
    label: Label | None,
    journal: Journal | None,
    credentials: Credentials | None,
    failures: int | None,
    running: Mapping[str, Any] | None,
    *,
    claim: ClaimRecord | None = None,
) -> dict[str, object]:
    """The device's state, for programs.

    Args:
        label: The codes, where `init` has made them.
        journal: The journal.
        credentials: The credentials.
        failures: The PIN's failures; None where the record is not to be trusted.
        running: What a running device says of itself; None where none runs.
        claim: What a pre-provisioned device keeps; None for any other.
    """
    failure = journal.failure if journal else None
    state = redemption.coarse_state(
        journal, has_credentials=credentials is not None, is_claimable=claim is not None and not claim.is_claimed
    )
    pin = _pin(label, failures)
    content: dict[str, object] = {
        "state": state.name.lower().replace("_", "-"),
        "phase": journal.phase.value if journal else None,
        "removed": (journal is not None and journal.was_removed) or bool(running and running.get("key_refused")),
        "failure": failure and {"code": failure.code.name, "reason": console.printable(failure.reason)},
        "device_id": credentials.device_id if credentials else None,
        "setup_code": label is not None,
        "pin": label is not None and label.pin is not None,
        "pin_state": pin,
        "pin_failures": failures,
        "pin_wait_s": running.get("pin_wait_s") if running else None,
        "running": running is not None,
        "window_s": running.get("window_s", 0) if running else 0,
        "claim_code": claim is not None,
        "claim_window_s": running.get("claim_window_s", 0) if running else 0,
        "claim_mode_s": running.get("claim_mode_s", 0) if running else 0,
    }
    content["next"] = _next(content, journal, credentials)
    return content


def _pin(label: Label | None, failures: int | None) -> str:
    if label is None or label.pin is None:
        return "none"
    if failures is None:
        return "damaged"
    if failures >= STOP_AT:
        return "stopped"
    return "delayed" if failures >= FREE_FAILURES else "ready"


def _next(content: Mapping[str, object], journal: Journal | None, credentials: Credentials | None) -> str:
    """What a person at the device can do; empty where there is nothing to be done."""
    if not content["setup_code"]:
        return "run: bletoken-peripheral init"
    if content["removed"] and content["claim_code"]:
        return "MODE does not know its key; run: bletoken-peripheral reset --erase-key, and init with another"
    if content["removed"]:
        return "removed in MODE; run: bletoken-peripheral reset"
    if journal is not None and journal.device_id is not None and credentials is None:
        return "the credentials are gone; put them back, or run: bletoken-peripheral reset"
    if journal is not None and journal.phase is Phase.OUTCOME_UNKNOWN:
        return "look in the MODE home whether a new device is there, then hand over another token"
    if content["claim_code"] and credentials is None:
        return "init was not finished; run it again"
    if content["pin_state"] in ("stopped", "damaged"):
        return "use the QR code, or run: bletoken-peripheral unlock"
    if content["running"] and not content["claim_window_s"] and content["state"] == "pre-provisioned":
        return "nobody can claim the device over Bluetooth; run: bletoken-peripheral open"
    if not content["running"] and content["state"] in ("ready", "working", "pre-provisioned"):
        return "run: bletoken-peripheral run"
    if content["running"] and not content["window_s"] and content["state"] == "ready":
        return "nobody can find the device; run: bletoken-peripheral open"
    return ""


def lines(content: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    state = "removed in MODE" if content["removed"] else content["state"]
    told: list[tuple[str, object]] = [("state", state)]
    if content["device_id"] is not None:
        told.append(("device", content["device_id"]))
    if content["failure"]:
        failure = content["failure"]
        told.append(("failure", f"{failure['code'].lower().replace('_', ' ')} {failure['reason']}".strip()))
    told.append(("setup code", "made" if content["setup_code"] else "none"))
    pin = _PINS[content["pin_state"]]
    if content["pin_failures"]:
        pin += f" ({content['pin_failures']} failures)"
    if content["pin_wait_s"]:
        pin += f"; the next one in {content['pin_wait_s']} s"
    told.append(("PIN", pin))
    window = f"open for {content['window_s']} s more" if content["window_s"] else "closed"
    told.append(("running", f"yes, window {window}" if content["running"] else "no"))
    if content["claim_mode_s"]:
        told.append(("claim mode", f"on for {content['claim_mode_s']} s more"))
    if content["next"]:
        told.append(("next", content["next"]))
    return [f"{name:11} {value}" for name, value in told]
