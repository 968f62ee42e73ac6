import pytest

from bletoken.errors import UsageError
from bletoken.sim.cloud.settings import Refusal, Settings


def test_texts_and_json_values_give_the_same_settings() -> None:
    texts = {"redeem_status": "200", "token_lifetime_s": "1.5", "token_single_use": "false", "token_used": "409:USED"}
    values = {"redeem_status": 200, "token_lifetime_s": 1.5, "token_single_use": False, "token_used": "409:USED"}
    assert Settings.load(texts) == Settings.load(values)
    assert Settings.load(values).token_used == Refusal(409, "USED")


def test_an_empty_object_gives_the_defaults() -> None:
    assert Settings.load({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_such_setting", 1),
        ("redeem_status", 204),
        ("redeem_status", True),
        ("redeem_status", 200.5),
        ("redeem_status", "two hundred"),
        ("redeem_status", None),
        ("token_lifetime_s", -1),
        ("token_lifetime_s", "nan"),
        ("token_lifetime_s", "inf"),
        ("token_lifetime_s", 1e300),
        ("token_length", 15),
        ("first_device_id", 2**64),
        ("timestamp_digits", 6),
        ("token_single_use", 1),
        ("token_single_use", "maybe"),
        ("token_single_use", []),
        ("token_used", 403),
        ("token_used", "40"),
        ("token_used", "200:FINE"),
        ("token_used", "403:\n"),
        ("max_body_size", -1),
        ("claim_off", "perhaps"),
        ("claim_off", 1),
        ("claim_longest_s", 0),
        ("registration_invalid_status", 500),
    ],
)
def test_an_unusable_setting_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError):
        Settings.load({name: value})
