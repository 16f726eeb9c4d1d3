"""Signatures of deliveries."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_contract.signature import (
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


def test_what_was_signed_is_verified() -> None:
    assert verify([KEY], headers(), BODY, NOW) == "msg_1"


@pytest.mark.parametrize("skew", [-300, -299, 0, 299, 300])
def test_a_skew_of_up_to_300_seconds_is_accepted(skew: int) -> None:
    verify([KEY], headers(at=NOW + skew), BODY, NOW)


@pytest.mark.parametrize("skew", [-301, 301, 10**9])
def test_a_greater_skew_is_refused(skew: int) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], headers(at=NOW + skew), BODY, NOW)


def test_any_of_several_keys_may_have_signed() -> None:
    for signer in (b"a" * 32, b"b" * 32, b"c" * 32):
        verify([b"a" * 32, b"b" * 32, b"c" * 32], headers(signer), BODY, NOW)


def test_any_of_several_signatures_may_fit_and_unknown_schemes_are_passed_over() -> None:
    signed = headers()
    other = sign(b"x" * 32, "msg_1", NOW, BODY)
    signed["webhook-signature"] = f"v1a,AAAA v2,BBBB {other} {signed['webhook-signature']}"
    verify([KEY], signed, BODY, NOW)


def test_without_a_key_nothing_is_verified() -> None:
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
def test_malformed_headers_are_not_verified(change: dict[str, str]) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], {**headers(), **change}, BODY, NOW)


def test_a_changed_body_is_not_verified() -> None:
    with pytest.raises(NotVerified):
        verify([KEY], headers(), BODY + b" ", NOW)


@given(st.dictionaries(st.sampled_from([*headers()]), st.text()), st.binary())
def test_whatever_comes_the_only_exception_is_not_verified(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(NotVerified):
        verify([KEY], {**headers(), **change}, body, NOW + 1000)


def test_the_refusal_tells_the_sender_nothing() -> None:
    with pytest.raises(NotVerified) as caught:
        verify([KEY], {}, BODY, NOW)
    assert str(caught.value) == "not verified"
    assert caught.value.reason


def test_a_key_survives_its_text_form() -> None:
    assert parse_key(new_key(KEY)) == KEY
    assert parse_key(new_key(KEY) + "\n") == KEY
    assert parse_key(new_key(KEY).removeprefix("whsec_")) == KEY


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_%%%", "whsec_" + base64.b64encode(b"short").decode(), "no-base64" * 5]
)
def test_what_is_no_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        parse_key(text)
    assert not text or text not in str(caught.value)


def backwards(content: bytes) -> bytes:
    """A signature of 64 bytes that any other content has not; the curve itself comes from outside."""
    return (content[::-1] * 64)[:64]


def fits(signature: bytes, content: bytes) -> bool:
    return signature == backwards(content)


def asymmetric(body: bytes = BODY) -> dict[str, str]:
    return {**headers(), "webhook-signature": sign_ed25519(backwards, "msg_1", NOW, body)}


def test_a_public_key_alone_verifies_the_asymmetric_kind() -> None:
    assert verify([], asymmetric(), BODY, NOW, public_keys=[fits]) == "msg_1"


def test_either_kind_of_signature_will_do() -> None:
    both = {**headers(), "webhook-signature": f"{headers()['webhook-signature']} {asymmetric()['webhook-signature']}"}
    verify([KEY], both, BODY, NOW)
    verify([], both, BODY, NOW, public_keys=[fits])
    verify([b"x" * 32], both, BODY, NOW, public_keys=[fits])


@pytest.mark.parametrize(
    "signature", ["v1a,", "v1a," + "A" * 86, "v1a," + "A" * 86 + "==", "v1a," + "A" * 88, "v1,", "v1a," + "%" * 88]
)
def test_what_is_not_signed_for_the_public_key_is_not_verified(signature: str) -> None:
    with pytest.raises(NotVerified):
        verify([], {**asymmetric(), "webhook-signature": signature}, BODY, NOW, public_keys=[fits])


def test_a_signature_of_a_kind_that_is_not_checked_here_is_not_verified() -> None:
    for sent, known in ((asymmetric(), {}), (headers(), {"public_keys": [fits]})):
        with pytest.raises(NotVerified):
            verify([KEY] if not known else [], sent, BODY, NOW, **known)


@pytest.mark.parametrize("text", ["", "whpk_", "whpk_%%", "whpk_" + base64.b64encode(b"short").decode(), "MCowBQ=="])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        parse_public_key(text)
