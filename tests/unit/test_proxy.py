"""Proxy: which hosts the functions call through it."""

import pytest

from keyturn_notifier.proxy import InvalidProxy, parse_proxy

PROXY = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "no_proxy", "expected"),
    [
        ("https://receiver.example/v1/notifications", [], True),
        ("https://receiver.example", ["receiver.example"], False),
        ("https://Receiver.Example.", ["RECEIVER.example"], False),
        ("https://a.receiver.example:8443", ["receiver.example"], False),
        ("https://a.receiver.example", [".receiver.example"], False),
        ("https://a.receiver.example", ["*.receiver.example"], False),
        ("https://notreceiver.example", ["receiver.example"], True),
        ("https://receiver.example.org", ["receiver.example"], True),
        ("https://sqs.eu-west-1.amazonaws.com", ["amazonaws.com", "10.0.0.0/8"], False),
        ("https://10.1.2.3/v1/notifications", ["10.0.0.0/8"], False),
        ("https://11.1.2.3", ["10.0.0.0/8"], True),
        ("https://10.1.2.3", ["10.1.2.3"], False),
        ("https://10.1.2.3", ["10.1.2.3/8"], False),
        ("https://10.1.2.4", ["10.1.2.3"], True),
        ("https://[fd00::1]:8443", ["fd00::/8"], False),
        ("https://[fd00::1]", ["[fd00::1]"], False),
        ("https://[fe00::1]", ["fd00::/8", "10.0.0.0/8"], True),
        ("https://ten.example", ["10.0.0.0/8"], True),  # networks do not apply to names, because no name is resolved
        ("https://anything.example", ["*"], False),
        ("https://10.1.2.3", ["*"], False),
        ("http://127.0.0.1:1", [], False),
        ("http://[::1]:1", [], False),
        ("http://localhost:1", [], False),
    ],
)
def test_host_is_called_through_the_proxy_unless_it_is_named(url: str, no_proxy: list[str], expected: bool) -> None:
    assert parse_proxy(PROXY, no_proxy).serves(url) is expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("proxy.example:3128", "http://HOST:PORT"),
        ("http://proxy.example", "http://HOST:PORT"),
        ("http://proxy.example:99999", "http://HOST:PORT"),
        ("http://proxy.example:3128/path", "http://HOST:PORT"),
        ("https://proxy.example:3128", "must start with http://"),
        ("socks5://proxy.example:1080", "must start with http://"),
        ("http://me:hush@proxy.example:3128", "no user or password"),
    ],
)
def test_proxy_that_cannot_work_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(InvalidProxy, match=words) as caught:
        parse_proxy(url, [])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("entry", ["10.0.0.0/40", "300.1.2.3/8", "receiver.example/path", "receiver.example:443"])
def test_entry_that_is_neither_name_nor_network_is_refused_in_words(entry: str) -> None:
    with pytest.raises(InvalidProxy, match="must be a name, an address, or a network"):
        parse_proxy(PROXY, [entry])
