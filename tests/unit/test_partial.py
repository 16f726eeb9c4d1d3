"""What several AWS secrets give: values under aliases, compound revisions, and limits that count all of them."""

import pytest

from keyturn_receiver.core.binding import AliasedSources, Binding, Entry, Source, Target
from keyturn_receiver.core.partial import render_groups
from keyturn_receiver.core.render import MAX_DATA, MAX_TOTAL_COST, SecretVersion, costs, render
from keyturn_receiver.core.revision import compound_version
from keyturn_receiver.errors import InvalidValue, NoCredentials, SourceRefused, SourceUnavailable, with_message

DB, HOST = Source("db"), Source("host")


def version(source: Source, value: str | bytes) -> SecretVersion:
    return SecretVersion(f"arn:of:{source.secret_id}", f"prod/{source.secret_id}", f"v-{source.secret_id}", value)


def binding(**expressions: str) -> Binding:
    """Return a binding whose expressions each name the aliases that their text contains."""
    aliases = {"db": DB, "host": HOST}
    entries = tuple(
        Entry(key, AliasedSources(tuple(each for each in aliases.items() if each[0] in text)), text)
        for key, text in expressions.items()
    )
    return Binding(Target("team", "db"), None, entries, "Secret")


def rendered(db: str | bytes, host: str | bytes, **expressions: str) -> dict[str, bytes]:
    return render(binding(**expressions), {DB: version(DB, db), HOST: version(HOST, host)})


def test_alias_alone_is_the_whole_value_byte_for_byte() -> None:
    raw, text = bytes(range(256)), '\ufeff{"a":1.10, "b" : null}\n'
    assert rendered(raw, text, A="db", B="host", C=" host ") == {"A": raw, "B": text.encode(), "C": text.encode()}


def test_expressions_run_over_all_aliases_that_they_name() -> None:
    url = "join('', [db.user, ':', url_encode(db.password), '@', host])"
    assert rendered('{"user": "u", "password": "p/%"}', "h:5432", URL=url) == {"URL": b"u:p%2F%25@h:5432"}


@pytest.mark.parametrize(
    ("db", "host", "expression", "words"),
    [
        (
            '{"a": 1}',
            "plain",
            "host.address",
            "the value of host in AWS is not JSON and has no properties: write the alias",
        ),
        ('{"a": 1}', '{"b": 1}', "join('', [db.a, host.c])", "there is no such property, or it is null"),
        ('{"a": 1}', '{"b": 1}', "join('', [db.a, to_string(host.c)])", "there is no such property, or it is null"),
        ('{"a": 1}', '{"b": null}', "{a: db.a, b: host.b}", "there is no such property, or it is null"),
        ('"{\\"a\\": 1}"', "plain", "join('', [db.a, host])", "or use from_json(db), as in from_json(db).a"),
        ('{"a": 1', "plain", "join('', [db.a, host])", "alias db: the value begins like JSON, but is not JSON"),
        ('{"a": 1', "plain", "join('', [db.a, host])", "with the expression db"),
        (bytes([0xFF, 0xFE]), "h", "join('', [db, host])", "encode it with base64_encode()"),
    ],
)
def test_fault_names_the_alias_and_never_the_value(db: str | bytes, host: str, expression: str, words: str) -> None:
    with pytest.raises(InvalidValue) as error:
        rendered(db, host, KEY=expression)
    assert words in str(error.value)
    assert "plain" not in str(error.value)


def test_cost_counts_every_secret_that_the_expression_names() -> None:
    versions = {DB: version(DB, "x" * 1000), HOST: version(HOST, "y" * 9000)}
    alone, both = costs(binding(A="to_string(db)", B="join('', [to_string(db), to_string(host)])"), versions)
    assert both > alone + 9000


def test_all_groups_together_are_held_to_the_limit_of_cost() -> None:
    large = "[" + "1," * 14_000 + "1]"
    versions = {DB: version(DB, large), HOST: version(HOST, large)}
    expressions = {
        f"{name}{number}": f"to_string({name}[?@==`{number}`])" for name in ("db", "host") for number in (1, 2)
    }
    groups = binding(**expressions).groups
    one = sum(costs(groups[0], versions))
    assert one < MAX_TOTAL_COST < 2 * one  # each group alone would pass
    with pytest.raises(InvalidValue, match="could produce far more than a Secret can hold"):
        render_groups(groups, versions, {})


def test_all_groups_together_are_held_to_the_size_of_a_secret() -> None:
    half = "x" * (MAX_DATA // 2 + 1)
    versions = {DB: version(DB, half), HOST: version(HOST, half)}
    with pytest.raises(InvalidValue, match=f"more than {MAX_DATA} bytes"):
        render_groups(binding(A="db", B="host").groups, versions, {})


def test_temporary_failure_decides_and_both_are_told() -> None:
    errors = {DB: SourceRefused("db: denied"), HOST: SourceUnavailable("host: throttled", 7.0)}
    rendering = render_groups(binding(A="db", B="host", C="join('', [db, host])").groups, {}, errors)
    assert isinstance(rendering.error, SourceUnavailable)
    assert rendering.error.retry_after == 7.0
    assert str(rendering.error) == "alias db: db: denied; alias host: host: throttled"
    assert (rendering.data, rendering.failed, rendering.skipped) == ({}, ("A", "B", "C"), ())


def test_error_with_another_message_stays_what_it_is() -> None:
    error = NoCredentials("AWS secret db", "no trust", 5.0)
    changed = with_message(error, "more words")
    assert isinstance(changed, NoCredentials)
    assert (str(changed), changed.fault, changed.retry_after) == ("more words", "no trust", 5.0)
    assert str(error) == "AWS secret db: no trust"


def test_compound_version_depends_on_each_version_and_on_no_order() -> None:
    both = compound_version({"db": "v1", "host": "v2"})
    assert both == compound_version({"host": "v2", "db": "v1"})
    assert len({both, compound_version({"db": "v1", "host": "v3"}), compound_version({"db": "v2", "host": "v1"})}) == 3
    assert compound_version({"db": "v1"}) == "v1"  # the compound version of one AWS secret is its version id
