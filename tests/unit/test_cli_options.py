"""The arguments and options that commands have in common."""

import pytest

from keyturn_cli.errors import UsageError
from keyturn_cli.options import Release, read_release, read_target
from keyturn_receiver.core.binding import Target


def test_name_alone_is_of_the_namespace() -> None:
    assert read_target("db", "shop") == Target("shop", "db")


def test_namespace_in_the_argument_wins() -> None:
    assert read_target("pay/db", "shop") == Target("pay", "db")


@pytest.mark.parametrize("text", ["a/b/c", "Upper", "a b", "../x", "", "a/", "/a", "\x1b[31m", "-", "x" * 300])
def test_odd_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a Secret"):
        read_target(text, "shop")


def test_release_has_a_namespace_and_a_name() -> None:
    assert read_release("platform/keyturn-eu") == Release("platform", "keyturn-eu")


@pytest.mark.parametrize("text", ["keyturn", "/", "a/", "/b", "a/b/c", "A/b"])
def test_odd_release_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not NAMESPACE/NAME"):
        read_release(text)
