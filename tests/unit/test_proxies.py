"""The proxies of the environment: NO_PROXY means to the receiver what it means to Go's programs in the cluster."""

import logging
import os
from collections.abc import Callable

import botocore.utils
import pytest
import requests.utils

from keyturn_receiver.proxies import normalize_no_proxy, proxy_for

PROXY = "http://proxy.example.com:3128"
AWS = "https://secretsmanager.eu-west-1.amazonaws.com"

# Each case: NO_PROXY, a URL, and whether the URL is called directly.
CASES = [
    ("", AWS, False),
    ("amazonaws.com", AWS, True),
    (".amazonaws.com", AWS, True),
    ("*.amazonaws.com", AWS, True),
    ("*.example.com", AWS, False),
    ("*", AWS, True),
    ("example.com, *", AWS, True),
    ("10.0.0.0/8", AWS, False),
    ("10.0.0.0/8", "https://10.1.2.3", True),
    ("10.0.0.0/8", "https://10.1.2.3:6443/path", True),
    ("10.1.0.0/8", "https://10.255.2.3", True),  # as Go does, the bits beyond the prefix are ignored
    ("10.0.0.0/8", "https://11.1.2.3", False),
    ("10.0.0.0/33", "https://10.1.2.3", False),
    ("172.20.0.0/16, 10.1.2.3", "https://10.1.2.3", True),
    ("fd00::/8", "https://[fd00:ec2::23]:443", True),
    ("fd00::/8", "https://[fe80::1]", False),
    ("fd00::/8", "https://10.1.2.3", False),
]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the given variables of the environment, and removes all other proxy variables."""

    def give(**variables: str) -> None:
        for scheme in ("http", "https", "all", "no"):
            for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
                monkeypatch.setenv(name, "")  # so that monkeypatch records and restores it
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(("no_proxy", "url", "direct"), CASES)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_host_that_no_proxy_covers_is_called_directly(
    given: Callable[..., None], name: str, no_proxy: str, url: str, direct: bool
) -> None:
    given(HTTPS_PROXY=PROXY, **{name: no_proxy})
    normalize_no_proxy()
    assert proxy_for(url) == (None if direct else PROXY)


@pytest.mark.parametrize(("no_proxy", "url", "direct"), CASES)
def test_library_calls_the_endpoints_of_the_environment_likewise(
    given: Callable[..., None], no_proxy: str, url: str, direct: bool
) -> None:
    given(HTTPS_PROXY=PROXY, NO_PROXY=no_proxy, AWS_ENDPOINT_URL=url)
    normalize_no_proxy()
    assert ("https" not in botocore.utils.get_environ_proxies(url)) is direct
    assert ("https" not in requests.utils.get_environ_proxies(url)) is direct


def test_lower_case_variable_wins_as_in_other_programs(given: Callable[..., None]) -> None:
    given(HTTPS_PROXY=PROXY, NO_PROXY="10.0.0.0/8", no_proxy="11.0.0.0/8")
    normalize_no_proxy()
    assert (proxy_for("https://10.1.2.3"), proxy_for("https://11.1.2.3")) == (PROXY, None)


def test_entry_that_is_no_range_is_reported_and_disturbs_no_other(
    given: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    given(HTTPS_PROXY=PROXY, NO_PROXY="10.0.0.0/33,https://me:hunter2@example.com/x,192.0.2.0/24")
    with caplog.at_level(logging.WARNING):
        normalize_no_proxy()
    assert [record.args for record in caplog.records] == [("10.0.0.0/33",), ("example.com/x",)]
    assert "write it as in 10.0.0.0/8" in caplog.text
    assert proxy_for("https://192.0.2.1") is None


def test_environment_without_no_proxy_stays_as_it_is(given: Callable[..., None]) -> None:
    given(HTTPS_PROXY=PROXY)
    before = dict(os.environ)
    normalize_no_proxy()
    assert dict(os.environ) == before
