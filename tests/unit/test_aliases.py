"""Several AWS secrets in one Secret: their aliases, what expressions can reach, and what is wrong with a binding."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.aliases import MAX_ALIASES, MAX_SECRETS_ANNOTATION, Alias, Scope, read_aliases, scope_of
from keyturn_receiver.core.binding import (
    DATA,
    SECRET_ID,
    VERSION_STAGE,
    AliasedSources,
    Binding,
    Entry,
    Source,
    Target,
    binding_hash,
    read_binding,
    read_spec,
)
from keyturn_receiver.core.expression import evaluate, validate_expression
from keyturn_receiver.core.functions import EvaluationError
from keyturn_receiver.core.render import SecretVersion, render
from keyturn_receiver.errors import InvalidBinding, InvalidValue

SECRETS = "keyturn.dev/secrets"
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:rds!db-1234-AbCdEf"
URL = "join('', [db.username, ':', url_encode(db.password), '@', host.address])"
TARGET = Target("team", "db")


def read(**annotations: str) -> Binding:
    names = {"secrets": SECRETS, "data": DATA, "stage": VERSION_STAGE, "secret_id": SECRET_ID}
    return read_binding(TARGET, read_spec({names[name]: text for name, text in annotations.items()}))


def faults(**annotations: str) -> str:
    with pytest.raises(InvalidBinding) as error:
        read(**annotations)
    return str(error.value)


LINES = {
    "db: prod/db": Alias("db", "prod/db"),
    "  db:   prod/db  ": Alias("db", "prod/db"),
    f"db: {ARN}": Alias("db", ARN),
    "db: rds!db-1234": Alias("db", "rds!db-1234"),
    "db: 'prod/db'": Alias("db", "prod/db"),
    'db: "prod/db"': Alias("db", "prod/db"),
    '"db": prod/db': Alias("db", "prod/db"),
    "db: prod/db # the database": Alias("db", "prod/db"),
    "_x9: prod/db": Alias("_x9", "prod/db"),
    "db: {id: prod/db, stage: AWSPENDING}": Alias("db", "prod/db", "AWSPENDING"),
    "db: {stage: 'blue', id: \"prod/db\"}": Alias("db", "prod/db", "blue"),
    "db: { id: prod/db }": Alias("db", "prod/db"),
    f"db: {{id: {ARN}, stage: AWSPREVIOUS,}}": Alias("db", ARN, "AWSPREVIOUS"),
}


@pytest.mark.parametrize(("line", "alias"), LINES.items(), ids=LINES)
def test_line_has_the_meaning_that_yaml_gives_it(line: str, alias: Alias) -> None:
    assert read_aliases(line) == ((alias,), ())
    assert read_aliases(f"# a comment\n\n{line}\r\n") == ((alias,), ())
    content = yaml.safe_load(line)[alias.name]
    expected = content if isinstance(content, dict) else {"id": content}
    assert expected == {"id": alias.secret_id} | ({"stage": alias.stage} if alias.stage else {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty: write one line `alias: name-or-ARN`"),
        ("# nothing\n\n", "is empty"),
        ("db", "line 1: write one line"),
        ("db:prod/db", "line 1: write one line"),
        ("db:", "line 1: alias db names no AWS secret"),
        ("a: x\ndb: ''", "line 2: alias db names no AWS secret"),
        ("my-db: prod/db", "line 1: 'my-db' is not an alias: use at most 64 letters, digits and '_'"),
        ("9db: prod/db", "'9db' is not an alias"),
        (f"{'a' * 65}: prod/db", "is not an alias"),
        ("db: prod/db\ndb: prod/other", "alias db appears twice: keep one"),
        ("db: [prod/db]", "line 1: alias db names no AWS secret"),
        ("db: prod db", "line 1: alias db names no AWS secret"),
        ("db: &x prod/db", "line 1: alias db names no AWS secret"),
        ("db: {id: prod/db, stage: a, stage: b}", "alias db: write id and stage, each once"),
        ("db: {id: prod/db, region: x}", "alias db: write id and stage, each once"),
        ("db: {id:prod/db}", "alias db: write id and stage, each once"),
        ("db: {stage: AWSPENDING}", "alias db names no AWS secret: write `alias: {id:"),
        ("db: {id: prod/db, stage: ''}", "alias db: its stage must be 1 to 256 characters"),
        ("db:\n  id: prod/db\n  stage: AWSPENDING", "line 1: alias db names no AWS secret"),
        ("\n".join(f"a{n}: x" for n in range(MAX_ALIASES + 1)), "names 11 AWS secrets, and 10 is the most"),
        ("\n".join(f"a{n}: x" for n in range(500)), "names 500 AWS secrets, and 10 is the most: bind several Secrets"),
        ("\n".join(f"a{n}: prod/{n}" for n in range(1000)), "is longer than 4000 characters: bind several Secrets"),
        ("\n".join("a" for _ in range(500)), "; and 490 more"),
        ("- db: prod/db", "line 1: write one line"),
        ('{"db": "prod/db"}', "line 1: write one line"),
        ("db = prod/db", "line 1: write one line"),
        ("prod/db", "line 1: write one line"),
        (f"{ARN}", "line 1: write one line"),
        ("db: null\nhost:", "line 2: alias host names no AWS secret"),
        ("d\u00e9: prod/db", "is not an alias"),
        ("a: " + "x" * MAX_SECRETS_ANNOTATION, "is longer than 4000 characters: bind several Secrets"),
    ],
)
def test_faulty_annotation_is_told_with_what_to_write(text: str, words: str) -> None:
    told = faults(secrets=text, data="A: db.a")
    assert told.startswith(f"annotation {SECRETS}")
    assert words in told


@pytest.mark.parametrize("text", ["a: x" + " " * 3990 + "y", "a: " + "{" * 3990, "a: {" + "," * 3990 + "}", ":" * 3990])
def test_hostile_annotation_is_read_in_linear_time(text: str) -> None:
    for _ in range(200):  # 200 reads take less than a test's time-out, even on a loaded machine
        read_aliases(text[:-1] + str(_ % 10))


@pytest.mark.parametrize(
    ("expression", "names", "whole"),
    [
        ("db", {"db"}, False),
        ("db.password", {"db"}, False),
        ('"db"."my-key"', {"db"}, False),
        (URL, {"db", "host"}, False),
        ("db.hosts[0].name", {"db"}, False),
        ("db.hosts[?port > `80`].name | [0]", {"db"}, False),
        ("db.*.x", {"db"}, False),
        ("db.list[].x", {"db"}, False),
        ("db.{user: username, host: address}", {"db"}, False),
        ("{user: db.username, at: host}", {"db", "host"}, False),
        ("db.a || host.b && !other.c", {"db", "host", "other"}, False),
        ("db.a == host.b", {"db", "host"}, False),
        ("map(&host, db.list)", {"db"}, False),
        ("sort_by(db.list, &name)[0]", {"db"}, False),
        ("db | password", {"db"}, False),
        ("(db).password", {"db"}, False),
        ("not_null(db.a, host.b)", {"db", "host"}, False),
        ("'constant'", set(), False),
        ("@", set(), True),
        ("@.db", set(), True),
        ("to_string(@)", set(), True),
        ("*.password", set(), True),
        ("[0]", set(), True),
        ("[?x]", set(), True),
        ("[]", set(), True),
        ("[db, @]", {"db"}, True),
    ],
)
def test_scope_is_what_the_expression_can_reach(expression: str, names: set[str], whole: bool) -> None:
    assert scope_of(expression) == Scope(frozenset(names), whole)


def _calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return expressions that are made from ``inner`` ones by the operators of JMESPath and by some of its
    functions."""
    field = st.sampled_from(["a", "b", "db", "host", '"cache"'])
    two = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(inner, field).map(".".join),
        inner.map("({})".format),
        inner.map("{}[0]".format),
        inner.map("{}[1:]".format),
        inner.map("{}[]".format),
        inner.map("!{}".format),
        inner.map("{}.*".format),
        inner.map("to_array({})".format),
        inner.map("not_null({}, 'x')".format),
        st.tuples(inner, field).map(lambda parts: "{}[*].{}".format(*parts)),
        st.tuples(inner, field).map(lambda parts: "map(&{1}, to_array({0}))".format(*parts)),
        two.map(lambda parts: "{} | {}".format(*parts)),
        two.map(lambda parts: "{} || {}".format(*parts)),
        two.map(lambda parts: "{} && {}".format(*parts)),
        two.map(lambda parts: "{} == {}".format(*parts)),
        two.map(lambda parts: "[{}, {}]".format(*parts)),
        two.map(lambda parts: "{{x: {}, y: {}}}".format(*parts)),
        two.map(lambda parts: "{}[?{}]".format(*parts)),
        two.map(lambda parts: "{}[?{}] | [0]".format(*parts)),
        two.map(lambda parts: "map(&{1}, to_array({0}))".format(*parts)),
    )


EXPRESSIONS = st.recursive(
    st.sampled_from(["db", "host", '"cache"', "a", "@", "*", "[]", "[0]", "'text'", "`1`", '`{"db": 1}`']),
    _calls,
    max_leaves=6,
)
PART = {"db": 1, "host": {"a": [1, 2]}, "a": {"b": "x", "cache": [{"a": 1}, {"b": None}]}, "b": [{"db": 2}]}


@given(EXPRESSIONS)
def test_expression_depends_on_nothing_beyond_its_scope(expression: str) -> None:
    """Unless an expression reaches all aliases, an AWS secret whose alias it does not name cannot affect its key."""
    if validate_expression(expression) or scope_of(expression).whole:
        return
    document = {name: PART for name in ("db", "host", "cache", "a", "b")}
    named = {name: part for name, part in document.items() if name in scope_of(expression).names}
    assert _outcome(expression, named) == _outcome(expression, document)


def _outcome(expression: str, document: object) -> object:
    try:
        return evaluate(expression, document, 0)
    except EvaluationError as error:
        return str(error)


def test_entries_select_from_the_aliases_that_they_name() -> None:
    binding = read(secrets="db: prod/db\nhost: {id: prod/host, stage: blue}", data=f"URL: {URL}\nPASSWORD: db.password")
    db, host = Source("prod/db"), Source("prod/host", "blue")
    assert binding.entries == (
        Entry("URL", AliasedSources((("db", db), ("host", host))), URL),
        Entry("PASSWORD", AliasedSources((("db", db),)), "db.password"),
    )
    assert (binding.sources, binding.everything_of) == ({db, host}, None)
    assert [[entry.key for entry in group.entries] for group in binding.groups] == [["URL"], ["PASSWORD"]]


def test_version_stage_holds_for_aliases_that_name_no_stage() -> None:
    binding = read(secrets="a: x\nb: {id: y, stage: AWSCURRENT}", data="K: a\nL: b", stage="blue")
    assert binding.sources == {Source("x", "blue"), Source("y", "AWSCURRENT")}


def test_one_secret_under_two_aliases_can_have_two_stages() -> None:
    lines = "now: prod/db\nnext: {id: prod/db, stage: AWSPENDING}"
    binding = read(secrets=lines, data="NOW: now.password\nNEXT: next.password")
    assert binding.sources == {Source("prod/db"), Source("prod/db", "AWSPENDING")}


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"secret_id": "prod/db"}, f"annotations {SECRET_ID} and {SECRETS} exclude each other: keep one"),
        ({"data": None}, f"annotation {DATA} is missing, and {SECRETS} needs it: write one `KEY: expression` per line"),
        ({"data": "A: dbs.password\nB: host"}, "key A: dbs is no alias in keyturn.dev/secrets: use one of db, host"),
        ({"data": "A: password\nB: '[db, host]'"}, "key A: password is no alias in keyturn.dev/secrets"),
        ({"data": 'A: "@"\nB: "[db, host]"'}, "key A: its expression takes all AWS secrets together: begin with an"),
        ({"data": "A: db.password"}, f"annotation {SECRETS}: no expression in {DATA} uses host: remove the line"),
        ({"secrets": "db: a b\nhost: x"}, "alias db names no AWS secret"),
        ({"secrets": "db: 'a b'\nhost: x"}, "alias db is not the name or ARN of an AWS secret"),
    ],
)
def test_faulty_binding_is_told_with_what_to_write(annotations: dict[str, str | None], words: str) -> None:
    good = {"secrets": "db: prod/db\nhost: prod/host", "data": "A: db.password\nB: host"}
    read(**good)
    assert words in faults(**{name: text for name, text in {**good, **annotations}.items() if text is not None})


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("KEY: my-key", [b"m", b"my-key"]),
        ("KEY: host.my-key", [b"h", b"host.my-key"]),
        ("KEY: DB.p", [b"p"]),
        ("KEY: dbs.p", [b"p"]),
        ("KEY: Host", [b'{"my-key":"h"}']),
        ("KEY: p", [b"p"]),
        ("KEY: @", [b'{"p":"p","my-key":"m"}']),
        ("KEY: {{ .p }}", [b"p"]),
        ("KEY: '{{ .host.my-key }}'", [b"h"]),
        ("KEY: ${p}", [b"p"]),
        ('KEY: "my-key', [b"m"]),
        ("KEY: '\"my-key\"'", [b"m"]),
        ('KEY: join(":", [db.p, "x"])', [b"p:x"]),
        ('KEY: join(":", [db.p, host."my-key"])', [b"p:h"]),
        ("KEY: https://h?a=b", [b"https://h?a=b"]),
    ],
)
def test_advice_for_several_secrets_names_lines_that_give_what_was_meant(line: str, values: list[bytes]) -> None:
    def rendered(data: str) -> bytes:
        binding = read(secrets="db: prod/db\nhost: prod/host", data=f"D: db\nH: host\n{data}")
        return render(binding, {
            Source("prod/db"): SecretVersion("arn", "prod/db", "v1", '{"p":"p","my-key":"m"}'),
            Source("prod/host"): SecretVersion("arn", "prod/host", "v1", '{"my-key":"h"}'),
        })["KEY"]  # fmt: skip

    with pytest.raises((InvalidBinding, InvalidValue)) as caught:
        rendered(line)
    advised = re.findall(r"(?:as in|write) (KEY: .+?)(?=, and a |, or, for a constant,|$)", str(caught.value))
    assert [rendered(each) for each in advised] == values


def test_alias_that_no_other_resembles_is_not_suggested() -> None:
    told = faults(secrets="db: prod/db\nhost: prod/host", data="A: db\nB: host\nC: join('', [zebra.x, 'y'])")
    assert told.endswith("zebra is no alias in keyturn.dev/secrets: use one of db, host")
    told = faults(secrets="db: prod/db\nhost: prod/host", data="A: db\nB: host\nC: join('', [hots.x, 'y'])")
    assert told.endswith("hots is no alias in keyturn.dev/secrets: use one of db, host; did you mean host?")


def test_binding_of_one_secret_is_not_divided_and_has_the_hash_of_earlier_releases() -> None:
    annotations = {SECRET_ID: "prod/db", DATA: "A: a\nB: b"}
    binding = read_binding(TARGET, read_spec(annotations))
    assert binding.groups == (binding,)
    assert read_spec(annotations).sources == (Source("prod/db"),)
    assert binding_hash(annotations) == "478bdc0cb209c3c7"


def test_every_edit_of_the_aliases_changes_the_hash() -> None:
    texts = ["db: x", "db: y", "db: {id: x, stage: AWSPENDING}"]
    assert len({binding_hash({SECRETS: text}) for text in texts}) == len(texts)
