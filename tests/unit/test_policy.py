"""Access policy: globs match whole names, and the default is to deny."""

import pytest

from keyturn_receiver.core.policy import MAX_NAME, Default, Tenancy, _matches_name, check_id, check_name, check_type
from keyturn_receiver.errors import NotAllowed

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:{}-a1B2c3"


def allowed(globs: str | None, name: str, default: Default = Default.DENY) -> bool:
    annotations = {} if globs is None else {"keyturn.dev/allow-secrets": globs}
    try:
        check_name(Tenancy("team", annotations, default), name)
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("globs", "name", "expected"),
    [
        (None, "prod/db", False),
        ("", "prod/db", False),
        ("prod/db", "prod/db", True),
        ("prod/*", "prod/db", True),
        ("prod/*", "prod/a/b", True),
        ("prod/*", "x-prod/db", False),
        ("prod/db", "prod/db2", False),
        ("prod/db", "xprod/db", False),
        ("a/*, prod/*", "prod/db", True),
        ("a/*,\n  prod/*\n", "prod/db", True),
        ("a/*\nprod/*", "prod/db", True),
        ("a/*\r\n\tprod/*,,", "prod/db", True),
        ("a/*\nprod/*", "a/b", True),
        ("a/*\nprod/*", "x", False),
        (" ,\n, ", "prod/db", False),
        ("prod/??", "prod/db", True),
        ("PROD/*", "prod/db", False),
        ("prod.db", "prod/db", False),
    ],
)
def test_glob_matches_only_the_whole_name(globs: str | None, name: str, expected: bool) -> None:
    assert allowed(globs, name) is expected


def test_default_allow_applies_only_without_an_annotation() -> None:
    assert allowed(None, "prod/db", Default.ALLOW)
    assert not allowed("other/*", "prod/db", Default.ALLOW)


def test_arn_is_refused_without_a_call_to_aws() -> None:
    tenancy = Tenancy("team", {"keyturn.dev/allow-secrets": "team/*"}, Default.DENY)
    check_id(tenancy, ARN.format("team/db"))
    with pytest.raises(NotAllowed):
        check_id(tenancy, ARN.format("other/db"))


def test_text_longer_than_any_name_is_neither_allowed_nor_remembered() -> None:
    assert allowed("*", "x" * MAX_NAME)
    kept = _matches_name.cache_info().currsize
    assert not allowed("*", "x" * (MAX_NAME + 1))
    assert not allowed("*", "x" * 200_000)
    assert _matches_name.cache_info().currsize == kept


def test_refusal_names_the_cluster_admin() -> None:
    with pytest.raises(NotAllowed, match="a cluster admin can allow it"):
        check_name(Tenancy("team", {}, Default.DENY), "prod/db")


@pytest.mark.parametrize("kind", ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"])
def test_secret_type_that_mints_credentials_is_refused(kind: str) -> None:
    with pytest.raises(NotAllowed):
        check_type(kind)
    check_type("Opaque")
