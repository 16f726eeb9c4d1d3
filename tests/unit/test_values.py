"""Values: what is in AWS is what pods read, byte for byte; and what is wrong is said in exact words."""

import base64
import json
import random
import re
import string
import urllib.parse
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyturn_receiver.core.advised_lines import constant_line
from keyturn_receiver.core.aliases import SECRETS
from keyturn_receiver.core.binding import DATA, SECRET_ID, Binding, Entry, Source, Target, read_binding, read_spec
from keyturn_receiver.core.like_json import is_like_json
from keyturn_receiver.core.render import SecretVersion, costs, render
from keyturn_receiver.errors import InvalidBinding, InvalidValue
from support.value_corpus import ADVISED, ADVISED_VALUE, CANARY, CORRECTED, MISTAKES, VALUES, YAML_MISTAKES, Case

SOURCE = Source("prod/db")
TARGET = Target("team", "db")
DATABASE_URL = "join('', ['postgres://', username, ':', url_encode(password), '@', host, '/app'])"


def rendered(value: str | bytes, expressions: Mapping[str, str]) -> dict[str, bytes]:
    entries = tuple(Entry(key, SOURCE, expression) for key, expression in expressions.items())
    binding = Binding(TARGET, None if entries else SOURCE, entries, "Secret")
    return render(binding, {SOURCE: SecretVersion("arn", "prod/db", "v1", value)})


def bound(line: str) -> Binding:
    return read_binding(TARGET, read_spec({SECRET_ID: "prod/db", DATA: line}))


@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES)
def test_value_gives_the_exact_bytes_or_the_exact_words(case: Case) -> None:
    if not case.words:
        assert rendered(case.value, case.expressions) == case.data
        return
    with pytest.raises(InvalidValue) as caught:
        rendered(case.value, case.expressions)
    assert str(caught.value) == f"AWS secret prod/db: {case.words}"
    assert CANARY not in str(caught.value)


def check_mistake(line: str, message: str, corrections: Mapping[str, bytes]) -> None:
    """Check the message about a line of the annotation `data`, and that each correction of it gives its bytes."""
    with pytest.raises(InvalidBinding) as caught:
        bound(line)
    assert str(caught.value) == message
    for corrected, data in corrections.items():
        version = SecretVersion("arn", "prod/db", "v1", CORRECTED)
        assert list(render(bound(corrected), {SOURCE: version}).values()) == [data]
        if "as in " in message or ": write " in message:  # the message has the whole line
            assert corrected in message


@pytest.mark.parametrize("line", MISTAKES)
def test_mistake_in_an_expression_is_told_in_exact_words_and_their_advice_works(line: str) -> None:
    words, corrections = MISTAKES[line]
    key = line.partition(":")[0]
    check_mistake(line, f"annotation {DATA}: key {key}: {words}", corrections)


@pytest.mark.parametrize("line", YAML_MISTAKES)
def test_line_that_is_not_yaml_is_told_in_exact_words_and_their_advice_works(line: str) -> None:
    words, corrections = YAML_MISTAKES[line]
    check_mistake(line, f"annotation {DATA}{words}", corrections)


def message_about(line: str, value: str = ADVISED_VALUE) -> str:
    with pytest.raises((InvalidBinding, InvalidValue)) as caught:
        render(bound(line), {SOURCE: SecretVersion("arn", "prod/db", "v1", value)})
    return str(caught.value)


def advised(message: str) -> list[str]:
    """Return the lines that a message says to write."""
    return re.findall(r"(?:as in|write) (KEY: .+?)(?=, and a |, or, for a constant,|; annotation |$)", message)


@pytest.mark.parametrize("line", ADVISED)
def test_each_line_that_a_message_says_to_write_gives_what_was_meant(line: str) -> None:
    version = SecretVersion("arn", "prod/db", "v1", ADVISED_VALUE)
    lines = advised(message_about(line))
    assert [render(bound(each), {SOURCE: version})["KEY"].decode() for each in lines] == list(ADVISED[line])


PIECES = st.sampled_from(
    [*"abp.'\"`@$*&#:,!=%{}[]()<>|\\- 1é", "{{", "}}", "${", "join('', ", ' ": ', " # ", "my-key", "\n"]
)


@pytest.mark.filterwarnings("ignore:deprecated string literal syntax")  # of the library, about text in backquotes
@given(st.lists(PIECES, min_size=1, max_size=12).map("".join), st.booleans())
def test_each_line_in_a_message_about_any_text_is_valid(text: str, several: bool) -> None:
    names = {SECRETS: "p: x\nq: y"} if several else {SECRET_ID: "prod/db"}
    try:
        read_binding(TARGET, read_spec({**names, DATA: f"KEY: {text}\nP: p"}))
    except InvalidBinding as error:
        lines = advised(str(error))
        for line in lines:
            read_binding(TARGET, read_spec({**names, DATA: f"{line}\nP: p" + "\nQ: q" * several}))


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20))
def test_line_of_a_constant_gives_the_constant(text: str) -> None:
    assert (
        render(bound(constant_line("KEY", text)), {SOURCE: SecretVersion("arn", "n", "v1", "{}")})["KEY"]
        == text.encode()
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("quote", "to_json"), ("URL_ENCODE", "url_encode"), ("Base64_Encode", "base64_encode"), ("toJson", "to_json"),
        ("encodeURIComponent", "url_encode"), ("tostring", "to_string"), ("url_encod", "url_encode"),
        ("Lower", "lower"),
    ],
)  # fmt: skip
def test_function_of_another_spelling_is_told_with_ours(name: str, near: str) -> None:
    assert message_about(f"KEY: {name}(p)").endswith(f"the function {name!r} is not known: did you mean {near}()?")
    assert render(bound(f"KEY: {near}(p)"), {SOURCE: SecretVersion("arn", "n", "v1", ADVISED_VALUE)})


@pytest.mark.parametrize("name", ["foo", "bar", "env", "now", "sha256", "random"])
def test_function_that_resembles_none_is_told_with_all_names(name: str) -> None:
    assert f"the function {name!r} is not known: use one of abs, avg," in message_about(f"KEY: {name}(p)")


NUMBERS = st.one_of(
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?", fullmatch=True),
    # The parser writes such a number in place of a value that is nested too deeply.
    st.from_regex(r"0E\+0{0,20}1", fullmatch=True),
)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
NAMES = STRINGS | st.sampled_from(
    [
        "",
        ".",
        "..",
        "p",
        "@",
        "*",
        '"',
        "\\",
        "\\u0070",
        "a b",
        "a.b",
        "-",
        "null",
        "__proto__",
        "get",
        "values",
        "\0",
        "\ufeff",
    ]
)
BLANKS = st.sampled_from(["", " ", "\n", "\r\n\t"])


@st.composite
def json_texts(draw: st.DrawFn, depth: int = 3, *, inside: bool = False) -> tuple[str, str]:
    """Draw a JSON text as somebody may write it, and the same text as the Secret must hold it: compact, with the same
    numbers and with characters in place of escapes. It is null only ``inside`` another value."""
    kind = draw(st.sampled_from(["number", "string", "constant"] + ["list", "object"] * (depth > 0)))
    if kind == "number":
        number = draw(NUMBERS)
        return number, number
    if kind == "constant":
        constant = draw(st.sampled_from(["true", "false"] + ["null"] * inside))
        return constant, constant
    if kind == "string":
        text = draw(STRINGS)
        return json.dumps(text, ensure_ascii=draw(st.booleans())), json.dumps(text, ensure_ascii=False)
    parts = draw(st.lists(json_texts(depth - 1, inside=True), max_size=3))
    blank = draw(BLANKS)
    if kind == "object":
        names = draw(st.lists(NAMES, min_size=len(parts), max_size=len(parts), unique=True))
        escaped = draw(st.booleans())
        written = [
            f"{json.dumps(name, ensure_ascii=escaped)}{blank}:{blank}{part}"
            for name, (part, _) in zip(names, parts, strict=True)
        ]
        held = [f"{json.dumps(name, ensure_ascii=False)}:{part}" for name, (_, part) in zip(names, parts, strict=True)]
        brackets = "{}"
    else:
        written, held, brackets = [part for part, _ in parts], [part for _, part in parts], "[]"
    comma = f"{blank},{blank}"
    return (
        f"{brackets[0]}{blank}{comma.join(written)}{blank}{brackets[1]}",
        brackets[0] + ",".join(held) + brackets[1],
    )


@given(json_texts(), NAMES, BLANKS, st.booleans(), st.booleans())
def test_secret_holds_the_text_that_stands_in_aws(
    texts: tuple[str, str], name: str, blank: str, binary: bool, is_deep: bool
) -> None:
    written, held = texts
    beside = "[" * 101 + "1" + "]" * 101 if is_deep else "null"
    document = f'{blank}{{{json.dumps("beside " + name)}:{beside},{blank}"p":{written}{blank}}}'
    value = document.encode() if binary else document
    expected = json.loads(held).encode() if held.startswith('"') else held.encode()
    whole = document.encode()
    assert rendered(value, {"P": "p", "FILE": "@", "AGAIN": "to_string(p)"}) == {
        "P": expected, "FILE": whole, "AGAIN": expected,
    }  # fmt: skip


@given(st.text() | st.binary())
def test_whole_value_is_taken_byte_for_byte(value: str | bytes) -> None:
    try:
        expected = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        return
    assert rendered(value, {"FILE": "@"}) == {"FILE": expected}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_encodings_can_be_reversed(text: str, content: bytes) -> None:
    value = json.dumps({"t": text, "b": base64.b64encode(content).decode()})
    assert rendered(value, {
        "URL": "url_decode(url_encode(t))",
        "BASE64": "base64_decode(base64_encode(t))",
        "BYTES": "base64_decode(base64_encode(base64_decode(b)))",
        "JSON": "from_json(to_json(t))",
    }) == {"URL": text.encode(), "BASE64": text.encode(), "BYTES": content, "JSON": text.encode()}  # fmt: skip


def test_database_url_parses_back_to_its_parts_for_any_password_of_rds() -> None:
    """RDS makes passwords of printable ASCII without / @ " and the blank."""
    letters = sorted(set(string.printable) - set(string.whitespace) - set('/@"'))
    chosen = random.Random(17)  # noqa: S311 - no secret, and the same passwords in every run
    binding = bound(f'URL: "{DATABASE_URL}"')
    for _ in range(10_000):
        password = "".join(chosen.choices(letters, k=28))
        value = json.dumps({"username": "app", "password": password, "host": "db.internal"})
        url = urllib.parse.urlsplit(render(binding, {SOURCE: SecretVersion("arn", "n", "v1", value)})["URL"].decode())
        assert url.password is not None
        parts = (url.scheme, url.username, urllib.parse.unquote(url.password), url.hostname, url.path)
        assert parts == ("postgres", "app", password, "db.internal", "/app")


def test_random_password_counts_as_json_less_than_once_in_ten_thousand() -> None:
    letters = [chr(code) for code in range(0x21, 0x7F)]
    chosen = random.Random(17)  # noqa: S311 - no secret, and the same passwords in every run
    assert sum(is_like_json("".join(chosen.choices(letters, k=32))) for _ in range(200_000)) < 10


@pytest.mark.parametrize(
    "part",
    ["[", "[ ", "{", "{a", "['", '{"', "[],", "{a:}", "{a:} ", '{a:}" ', "}", "]", " ", "\\n", '\\"', "`", "“", "1"],
)
@pytest.mark.parametrize("begin", ["", "[", "{", '{"', "{a:}", "[1", "```"])
def test_likeness_of_a_hostile_value_is_found_in_linear_time(begin: str, part: str) -> None:
    is_like_json(begin + part * (65_000 // len(part)) + "x")  # anything slower takes longer than the time-out


def test_broken_json_is_told_once_for_all_its_keys() -> None:
    with pytest.raises(InvalidValue) as caught:
        rendered('{"a":1,}', {f"K{number}": "a" for number in range(50)})
    assert str(caught.value).count("is not JSON") == 1


def test_costs_of_a_binary_value_are_bounded_as_those_of_its_text() -> None:
    version = SecretVersion("arn", "n", "v1", b'{"p":"' + b"%" * 60_000 + b'"}')
    assert sum(costs(bound("A: url_encode(url_encode(url_encode(p)))"), {SOURCE: version})) > 5_000_000
