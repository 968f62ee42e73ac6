import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bletoken.errors import CloudNoAnswerError
from bletoken.mode.models import (
    Device,
    DeviceCredentials,
    DeviceEvent,
    Home,
    Identity,
    ProvisioningToken,
    UserSession,
    list_from_json,
)

MODELS: list[Any] = [Identity, UserSession, Home, Device, DeviceCredentials, ProvisioningToken, DeviceEvent]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KNOWN_FIELDS = st.dictionaries(
    st.sampled_from(
        [
            "type",
            "id",
            "homeId",
            "userId",
            "deviceId",
            "projectId",
            "token",
            "apiKey",
            "name",
            "tag",
            "deviceClass",
            "creationTime",
            "expirationTime",
            "timestamp",
            "eventType",
            "eventData",
            "originDeviceId",
            "isConnected",
            "deactivated",
        ]
    ),
    JSON | st.integers(-1, 2**64) | st.sampled_from(["2015-08-25T21:39:37Z", "9999-12-31T23:59:59-23:59", "v1.abc"]),
)


@given(value=JSON | KNOWN_FIELDS, model=st.sampled_from(MODELS))
def test_any_json_is_read_or_raises_the_one_error(value: object, model: Any) -> None:
    try:
        read = model.from_json(value)
    except CloudNoAnswerError:
        return
    for name in ("id", "device_id", "home_id", "user_id", "project_id", "origin_device_id"):
        number = getattr(read, name, None)
        assert number is None or (type(number) is int and 1 <= number < 2**64)


@given(value=JSON)
def test_any_json_is_a_list_or_raises_the_one_error(value: object) -> None:
    with contextlib.suppress(CloudNoAnswerError):
        assert isinstance(list_from_json(value, Home.from_json), list)


def test_credentials_are_read_from_the_device_object_that_mode_answers_with() -> None:
    answer = {"id": 2**64 - 1, "projectId": 3, "apiKey": "v1.abc", "homeId": 9, "deviceClass": "lamp", "new": [1]}
    assert DeviceCredentials.from_json(answer) == DeviceCredentials(2**64 - 1, "v1.abc", 9, "lamp")


@pytest.mark.parametrize("field", ["homeId", "deviceClass"])
@pytest.mark.parametrize("value", [None, True, [], {}, "x" * 2000, -1, 0, 2**64])
def test_credentials_are_not_lost_over_a_field_that_nobody_needs(field: str, value: object) -> None:
    credentials = DeviceCredentials.from_json({"id": 7, "apiKey": "v1.abc", field: value})
    assert credentials == DeviceCredentials(7, "v1.abc")


@pytest.mark.parametrize("number", [None, True, False, 0, -1, 2**64, 7.0, "7", [7]])
def test_an_id_is_an_integer_from_1_to_the_largest_unsigned_64_bit_integer(number: object) -> None:
    with pytest.raises(CloudNoAnswerError, match="readable id"):
        DeviceCredentials.from_json({"id": number, "apiKey": "v1.abc"})


@pytest.mark.parametrize("key", [None, "", 5, "a b", "a\r\nX: y", "a\n", "ключ", "a\x7f", "x" * 1025])
def test_a_key_is_printable_ascii_that_fits_into_a_header(key: object) -> None:
    with pytest.raises(CloudNoAnswerError, match="readable apiKey"):
        DeviceCredentials.from_json({"id": 7, "apiKey": key})
    with pytest.raises(CloudNoAnswerError, match="readable token"):
        ProvisioningToken.from_json({"token": key})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2015-08-25T21:44:37Z", datetime(2015, 8, 25, 21, 44, 37, tzinfo=UTC)),
        ("2015-08-25T21:44:37.744Z", datetime(2015, 8, 25, 21, 44, 37, 744000, tzinfo=UTC)),
        ("2015-08-25T21:44:37.744323372Z", datetime(2015, 8, 25, 21, 44, 37, 744323, tzinfo=UTC)),
        ("2015-08-25t21:44:37.7z", datetime(2015, 8, 25, 21, 44, 37, 700000, tzinfo=UTC)),
        ("2015-08-25T23:44:37+02:00", datetime(2015, 8, 25, 21, 44, 37, tzinfo=UTC)),
        ("2015-08-25T21:44:37", None),
        ("2015-08-25 21:44:37Z", None),
        ("20150825T214437Z", None),
        ("2015-08-25T21:44:37.Z", None),
        ("2015-13-25T21:44:37Z", None),
        ("2016-12-31T23:59:60Z", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("٢٠١٥-08-25T21:44:37Z", None),
        (1440539077, None),
    ],
)
def test_a_time_is_rfc_3339_and_becomes_utc(text: object, expected: datetime | None) -> None:
    assert ProvisioningToken.from_json({"token": "t", "expirationTime": text}).expires_at == expected


def test_whoever_mode_does_not_know_is_nobody() -> None:
    assert Identity.from_json({"type": "nobody"}) == Identity("nobody")
    assert Identity.from_json({"type": "device", "deviceId": 5, "projectId": 1}).device_id == 5


def test_an_event_without_data_has_none() -> None:
    event = {"homeId": 1, "timestamp": "2015-08-25T21:44:37Z", "eventType": "on", "originDeviceId": 4}
    assert DeviceEvent.from_json(event).event_data == {}
    assert DeviceEvent.from_json({**event, "eventData": {"a": [1]}}).event_data == {"a": [1]}


@pytest.mark.parametrize(
    "model",
    [
        DeviceCredentials.from_json({"id": 7, "apiKey": "canary"}),
        UserSession.from_json({"userId": 7, "token": "canary"}),
        ProvisioningToken.from_json({"token": "canary"}),
    ],
)
def test_no_repr_shows_a_secret(model: object) -> None:
    assert "canary" not in repr(model)


def test_no_message_shows_what_could_not_be_read() -> None:
    with pytest.raises(CloudNoAnswerError) as caught:
        DeviceCredentials.from_json(json.loads('{"id": "canary", "apiKey": "canary"}'))
    assert "canary" not in str(caught.value)
