"""Our signatures against the published package of Standard Webhooks, both ways, and against a golden vector."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from keyturn_contract.signature import new_key, parse_key, sign, verify

VECTORS = json.loads((Path(__file__).parent / "vectors" / "signatures.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors_hold_on_both_sides(vector: dict[str, str]) -> None:
    key, timestamp, body = parse_key(vector["key"]), int(vector["timestamp"]), vector["body"].encode()
    assert sign(key, vector["id"], timestamp, body) == vector["signature"]
    headers = {
        "webhook-id": vector["id"],
        "webhook-timestamp": vector["timestamp"],
        "webhook-signature": vector["signature"],
    }
    assert verify([key], headers, body, timestamp) == vector["id"]


@given(st.binary(min_size=24, max_size=64), st.text(st.characters(codec="utf-8", exclude_characters=""), max_size=200))
def test_the_published_package_verifies_what_we_sign_and_we_what_it_signs(random: bytes, body: str) -> None:
    text = new_key(random)
    now = datetime.now(UTC).replace(microsecond=0)
    timestamp = int(now.timestamp())
    theirs = Webhook(text)
    ours = sign(parse_key(text), "msg_1", timestamp, body.encode())
    assert theirs.sign("msg_1", now, body) == ours
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(timestamp), "webhook-signature": ours}
    assert verify([parse_key(text)], headers, body.encode(), timestamp) == "msg_1"
