"""The signatures of deliveries."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.signature import (
    MAX_ED25519,
    InvalidKey,
    NotVerified,
    new_key,
    parse_key,
    parse_public_key,
    sign,
    sign_ed25519,
    verify,
)

KEY = bytes(range(32))
NOW = 1_800_000_000
BODY = b'{"a":1}'


def headers(key: bytes = KEY, at: int = NOW, body: bytes = BODY) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": sign(key, "msg_1", at, body),
    }


def test_signed_delivery_is_verified() -> None:
    assert verify([KEY], headers(), BODY, NOW) == "msg_1"


@pytest.mark.parametrize("skew", [-300, -299, 0, 299, 300])
def test_clock_skew_up_to_300_seconds_is_accepted(skew: int) -> None:
    verify([KEY], headers(at=NOW + skew), BODY, NOW)


@pytest.mark.parametrize("skew", [-301, 301, 10**9])
def test_clock_skew_over_300_seconds_is_refused(skew: int) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], headers(at=NOW + skew), BODY, NOW)


def test_signature_of_any_configured_key_is_verified() -> None:
    for signer in (b"a" * 32, b"b" * 32, b"c" * 32):
        verify([b"a" * 32, b"b" * 32, b"c" * 32], headers(signer), BODY, NOW)


def test_one_valid_signature_is_enough_and_unknown_schemes_are_ignored() -> None:
    signed = headers()
    other = sign(b"x" * 32, "msg_1", NOW, BODY)
    signed["webhook-signature"] = f"v1a,AAAA v2,BBBB {other} {signed['webhook-signature']}"
    verify([KEY], signed, BODY, NOW)


def test_delivery_is_refused_if_no_key_is_configured() -> None:
    with pytest.raises(NotVerified):
        verify([], headers(), BODY, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": ""},
        {"webhook-id": "msg.1"},
        {"webhook-id": "msg_2"},
        {"webhook-id": "x" * 300},
        {"webhook-timestamp": ""},
        {"webhook-timestamp": f" {NOW}"},
        {"webhook-timestamp": f"+{NOW}"},
        {"webhook-timestamp": f"{NOW}.0"},
        {"webhook-timestamp": "1_800_000_000"},
        {"webhook-timestamp": "١٨٠٠٠٠٠٠٠٠"},
        {"webhook-timestamp": "9" * 5000},
        {"webhook-signature": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "v1," + "A" * 10**5},
        {"webhook-signature": "\xff"},
    ],
)
def test_malformed_headers_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], {**headers(), **change}, BODY, NOW)


def test_changed_body_is_refused() -> None:
    with pytest.raises(NotVerified):
        verify([KEY], headers(), BODY + b" ", NOW)


@given(st.dictionaries(st.sampled_from([*headers()]), st.text()), st.binary())
def test_arbitrary_input_raises_only_not_verified(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], {**headers(), **change}, body, NOW + 1000)


def test_refusal_text_reveals_no_reason() -> None:
    with pytest.raises(NotVerified) as caught:
        verify([KEY], {}, BODY, NOW)
    assert str(caught.value) == "not verified"
    assert caught.value.reason


def test_key_round_trips_with_and_without_prefix() -> None:
    assert parse_key(new_key(KEY)) == KEY
    assert parse_key(new_key(KEY) + "\n") == KEY
    assert parse_key(new_key(KEY).removeprefix("whsec_")) == KEY


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_%%%", "whsec_" + base64.b64encode(b"short").decode(), "no-base64" * 5]
)
def test_invalid_key_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        parse_key(text)
    assert not text or text not in str(caught.value)


def backwards(content: bytes) -> bytes:
    """Return 64 bytes that depend on the content. They stand in for an Ed25519 signature.

    The contract takes the signing function as a parameter.
    """
    return (content[::-1] * 64)[:64]


def fits(signature: bytes, content: bytes) -> bool:
    return signature == backwards(content)


def asymmetric(body: bytes = BODY) -> dict[str, str]:
    return {**headers(), "webhook-signature": sign_ed25519(backwards, "msg_1", NOW, body)}


def test_ed25519_signature_is_verified_with_the_public_key_alone() -> None:
    assert verify([], asymmetric(), BODY, NOW, public_keys=[fits]) == "msg_1"


def test_either_signature_scheme_is_enough() -> None:
    both = {**headers(), "webhook-signature": f"{headers()['webhook-signature']} {asymmetric()['webhook-signature']}"}
    verify([KEY], both, BODY, NOW)
    verify([], both, BODY, NOW, public_keys=[fits])
    verify([b"x" * 32], both, BODY, NOW, public_keys=[fits])


@pytest.mark.parametrize(
    "signature", ["v1a,", "v1a," + "A" * 86, "v1a," + "A" * 86 + "==", "v1a," + "A" * 88, "v1,", "v1a," + "%" * 88]
)
def test_malformed_or_wrong_ed25519_signature_is_refused(signature: str) -> None:
    with pytest.raises(NotVerified):
        verify([], {**asymmetric(), "webhook-signature": signature}, BODY, NOW, public_keys=[fits])


def test_few_ed25519_signatures_of_one_delivery_are_checked() -> None:
    checked: list[bytes] = []

    def fits(signature: bytes, content: bytes) -> bool:
        checked.append(signature)
        return False

    forged = " ".join(f"v1a,{base64.b64encode(bytes([number]) * 64).decode()}" for number in range(8))
    with pytest.raises(NotVerified):
        verify([], {**headers(), "webhook-signature": forged}, BODY, NOW, public_keys=[fits])
    assert len(checked) == MAX_ED25519


def test_signature_scheme_without_a_configured_key_is_refused() -> None:
    for delivery, public_keys in ((asymmetric(), {}), (headers(), {"public_keys": [fits]})):
        with pytest.raises(NotVerified):
            verify([KEY] if not public_keys else [], delivery, BODY, NOW, **public_keys)


@pytest.mark.parametrize("text", ["", "whpk_", "whpk_%%", "whpk_" + base64.b64encode(b"short").decode(), "MCowBQ=="])
def test_invalid_public_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        parse_public_key(text)
