"""The receiver's settings: the defaults are safe, and the error for a wrong setting names the setting."""

from pathlib import Path

import pytest

from keyturn_receiver.settings import Settings, read_settings


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
