"""The receiver's settings: the defaults are safe, and the error for a wrong setting names the setting."""

from pathlib import Path

import pytest

from keyturn_receiver.settings import POLL_INTERVALS, PollMode, Settings, read_settings


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch):
    def give(**settings: str) -> Settings:
        for name, value in settings.items():
            monkeypatch.setenv(f"KEYTURN_{name.upper()}", value)
        return read_settings()

    return give


def test_consumers_are_restarted_and_nothing_is_deleted_unless_it_is_said(given) -> None:
    settings = given(signing_key_secret_id="a")
    assert (settings.rollouts, settings.deletions) == (True, False)
    settings = given(rollouts="false", deletions="true")
    assert (settings.rollouts, settings.deletions) == (False, True)


KEY = f"whpk_{'A' * 43}="


def test_receiver_without_deliveries_needs_no_signing_key(given) -> None:
    assert given(signing_key_secret_id="a").deliveries is True
    assert given(deliveries="false", signing_key_secret_id="").deliveries is False


@pytest.mark.parametrize(
    "settings",
    [
        {"signing_key_secret_id": "a"},
        {"signing_key_file": "/keys"},
        {"signing_public_keys": KEY},
        {"tls_certificate_file": "/tls.crt", "tls_key_file": "/tls.key"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_setting_of_deliveries_is_refused_without_deliveries(
    given, capsys: pytest.CaptureFixture[str], settings: dict[str, str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        given(deliveries="false", **settings)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"KEYTURN_{next(iter(settings)).upper()}" in told
    assert "set KEYTURN_DELIVERIES to true" in told


def test_missing_signing_key_is_reported_with_the_way_to_do_without(given, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given()
    assert "set KEYTURN_DELIVERIES to false" in capsys.readouterr().err


def test_key_file_is_a_source_of_keys(given) -> None:
    assert given(signing_key_file="/keys").signing_key_file == Path("/keys")


def test_empty_variable_names_no_file(given, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        given(signing_key_file="")
    assert ended.value.code == 2
    assert "KEYTURN_SIGNING_KEY_FILE" in capsys.readouterr().err
    assert given(signing_key_secret_id="a", tls_certificate_file="", tls_key_file="").tls_key_file is None


@pytest.mark.parametrize(("mode", "seconds"), [("list", 300), ("describe", 1800)])
def test_default_interval_of_the_poller_follows_its_mode_and_can_be_overridden(
    given, mode: str, seconds: float
) -> None:
    assert given(signing_key_secret_id="a", poll_mode=mode).poll_interval == seconds
    assert given(poll_interval_seconds="60").poll_interval == 60


def test_poller_that_is_alone_keeps_the_short_interval_in_both_modes(given) -> None:
    assert given(deliveries="false", poll_mode="describe").poll_interval == 300


def test_poller_never_sweeps_more_than_once_a_second(given, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        given(signing_key_secret_id="a", poll_interval_seconds="0.1")
    assert "KEYTURN_POLL_INTERVAL_SECONDS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "words", "secrets"),
    [
        (PollMode.DESCRIBE, "(`describe`)", 100),
        (PollMode.DESCRIBE, "(`describe`)", 10_000),
        (PollMode.LIST, "`list` that is refused", 10_000),
    ],
)
def test_access_page_prices_the_default_intervals(mode: PollMode, words: str, secrets: int) -> None:
    """Secrets Manager bills $0.05 for 10,000 calls. A month has 730 hours."""
    page = (Path(__file__).parents[2] / "docs" / "aws-access.md").read_text()
    seconds = POLL_INTERVALS[mode]
    price = secrets * 3600 / seconds * 730 * 0.05 / 10_000
    (row,) = [line for line in page.splitlines() if f"| every {seconds / 60:.0f} minutes" in line and words in line]
    assert f"${price:.2f} " in row or f"${price:.0f} " in row, price
