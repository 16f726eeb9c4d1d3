"""Values of AWS secrets and mistakes in bindings, with the exact bytes or the exact words that each must give."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

CANARY = "hunter2"  # a part of most values; no message may contain it

BROKEN = (
    "the value begins like JSON, but is not JSON ({}): correct it in AWS, or take it as it is with the expression @"
)
TWICE = "it is there twice under the same name: keep one of the two in AWS"
TOO_DEEP = "it is nested too deeply, in more than 100 objects and lists: make it flatter in AWS"
SURROGATE = "it holds half a surrogate pair, which is not text: correct the value in AWS"
NOTHING = "there is no such property, or it is null: correct the expression, or add the property in AWS"
NO_NUMBER = "to_number() gets a value that is not a number: correct it in AWS, or leave the function out"
NOT_JSON = (
    "the value in AWS is not JSON: use the expression @, which takes the whole value, and which YAML needs in"
    ' quotes: "@"'
)
QUOTED_JSON = '"{\\"a\\":\\"hunter2\\",\\"b\\":1.10}"'
QUOTED = "the value is JSON inside a quoted text: store it in AWS without the outer quotes, or use from_json({})"
NO_KEY = (
    "its property number {} has a name that cannot be a key of a Secret: name the keys you need with keyturn.dev/data"
)
CONTROL = "a string has a line break or another control character in it, which JSON writes as \\n, \\r, \\t or \\u0000"
KEYSTORE = bytes.fromhex("308209a10201033082") + bytes(range(256))  # begins as a PKCS #12 file does


@dataclass(frozen=True)
class Case:
    """A value in AWS, the expressions for the keys of its Secret, and the expected result. If there are no expressions,
    every key is copied."""

    value: str | bytes
    expressions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, bytes] = field(default_factory=dict)
    words: str = ""  # the message without "AWS secret prod/db: "


def whole(value: str | bytes) -> Case:
    """Return the case of a value that goes under the key `value`, byte for byte."""
    return Case(value, {}, {"value": value.encode() if isinstance(value, str) else value})


def as_it_is(value: str | bytes) -> Case:
    """Return the case of a value that `@` takes, byte for byte."""
    return Case(value, {"file": "@"}, {"file": value.encode() if isinstance(value, str) else value})


def broken(value: str | bytes, cause: str) -> Case:
    """Return the case of a value that was meant to be JSON, and is not."""
    return Case(value, {}, words=BROKEN.format(cause))


def one(value: str, data: bytes) -> Case:
    """Return the case of a JSON object with a single property `p`, from which every key is copied."""
    return Case(f'{{"p":{value}}}', {}, {"p": data})


NUMBERS = ["1.10", "1e400", "-1E-400", "12345678901234567890123", "-0", "-0.0", "0", "1E+2", "1e5", "0E+1",
           "0E+0000000000000001", "0.1000", "3.14159265358979323846", "9" * 60_000]  # fmt: skip

VALUES: Mapping[str, Case] = {
    # What `@` takes
    **{f"@ of {name}": as_it_is(value) for name, value in {
        "JSON with blanks": '{ "a" : 1 ,\r\n "b": 1.10 }\n',
        "JSON with two properties of one name": '{"a":1,"a":2}',
        "JSON after a byte order mark": '\ufeff{"a":1}',
        "JSON that is cut": '{"a":1',
        "JSON of 12,000 levels": "[" * 12_000 + "]" * 12_000,
        "lines of JSON": '{"a":1}\n{"a":2}\n',
        "a JSON string": '"quoted"',
        "a JSON number": "12345678901234567890.10",
        "text": "plain  text\r\n",
        "blank text": " ",
        "a null byte": "a\0b",
        "bytes": b"\xff\x00\xfe",
        "JSON as bytes": b'{ "a": 1 }',
        "JSON in Latin-1": b'{"a":"\xe9"}',
        "JSON in UTF-16": '{"a":1}'.encode("utf-16"),
        "no bytes": b"",
    }.items()},
    # Numbers
    **{f"number {number[:30]}": one(number, number.encode()) for number in NUMBERS},
    **{f"number {number[:30]} in a list": one(f"[ {number} ,1]", f"[{number},1]".encode()) for number in NUMBERS},
    "number in an object": one('{ "x" : { "y" : 1.10 } }', b'{"x":{"y":1.10}}'),
    "number by to_string()": Case('{"p":1.10}', {"p": "to_string(@)"}, {"p": b'{"p":1.10}'}),
    "number by to_number()": Case('{"p":"1.10"}', {"p": "to_number(p)"}, {"p": b"1.10"}),
    "number by max()": Case('{"p":[1.10,2.50]}', {"p": "max(p)"}, {"p": b"2.50"}),
    "number by sort_by()": Case('{"p":[{"n":2.50},{"n":1.10}]}', {"p": "sort_by(p,&n)[].n"}, {"p": b"[1.10,2.50]"}),
    **{f"number {number} in an expression": Case("{}", {"p": f"`{number}`"}, {"p": number.encode()})
       for number in ("1.10", "0.1000", "1e400", "-1E-400", "-0", "12345678901234567890123", "10")},
    "numbers in a list in an expression": Case("{}", {"p": "`[1.10, {\"a\": 2.50}]`"}, {"p": b'[1.10,{"a":2.50}]'}),
    "number in an expression, joined": Case('{"h":"x"}', {"p": "join('',[h,':',to_string(`1.10`)])"}, {"p": b"x:1.10"}),
    "number in an expression, compared": Case('{"p":1.1}', {"p": "p==`1.10`"}, {"p": b"true"}),
    "number by a filter": Case('{"p":[1.10,2.50]}', {"p": "p[?@>`1.5`]"}, {"p": b"[2.50]"}),
    "numbers that are equal": Case('{"p":1.10,"q":1.1}', {"p": "p==q"}, {"p": b"true"}),
    "number by sum()": Case('{"p":[1.50,2]}', {"p": "sum(p)"}, {"p": b"3.5"}),
    "number by length()": Case('{"p":[1.10]}', {"p": "type(p[0])"}, {"p": b"number"}),
    "number that is calculated beyond all bounds": Case(
        '{"p":[1e300,1e400]}', {"p": "sum(p)"},
        words="key p (expression 'sum(p)'): a calculation has a result that is too large for a number",
    ),
    # Text
    "string": one('"a"', b"a"),
    "empty string": one('""', b""),
    "escapes": one(r'"\u00e9\n\t\"\\\/\ud83d\ude00"', "é\n\t\"\\/\U0001f600".encode()),
    "null character": one(r'"a\u0000b"', b"a\0b"),
    "line ends": one(r'"a\r\nb\rc\u2028d"', "a\r\nb\rc\u2028d".encode()),
    "byte order mark in a string": one(r'"\ufeffa"', "\ufeffa".encode()),
    "half a surrogate pair": Case(r'{"p":"\ud800"}', words=f"its property number 1: {SURROGATE}"),
    "half a surrogate pair in the whole value": Case("\ud800", words=SURROGATE),
    "half a surrogate pair in a list": Case(r'{"p":["\udc00"]}', words=f"its property number 1: {SURROGATE}"),
    "half a surrogate pair for url_encode()": Case(
        r'{"p":"\ud800"}', {"p": "url_encode(p)"}, words=f"key p (expression 'url_encode(p)'): {SURROGATE}"
    ),
    # Whole values that are not JSON, or not a JSON object
    **{f"whole: {value[:24]!r}": whole(value) for value in (
        "hunter2", "12345678", "1e5", "null", "true", '"quoted"', "[1, 2.50]", "[]", "{SSHA}hunter2", "{cipher}0a1b",
        "{bcrypt}$2a$10$x", "{{ .Values.x }}", "{broken}", "[client]\nuser=hunter2", "[[servers]]\nip='x'",
        "[2001:db8::1]:5432", "[mysqld]", "[tls]\n", "a: 1\nb: 2\n", "-----BEGIN KEY-----\nx\n", "NaN", "\ufeffhunter2",
        "user=x\r\n",
    )},
    "whole: bytes": whole(b"\xff\x00"),
    "whole: a keystore": whole(KEYSTORE),
    "whole: bytes of text": whole("é".encode()),
    "whole: Latin-1": whole(b"\xe9t\xe9"),
    "whole: UTF-16": whole("hunter2".encode("utf-16")),
    # Encodings of JSON
    "byte order mark": Case('\ufeff{"a":"hunter2"}', {}, {"a": b"hunter2"}),
    "byte order mark for an expression": Case('\ufeff{"a":"hunter2"}', {"K": "a"}, {"K": b"hunter2"}),
    "bytes of JSON": Case('{"a":"é","b":1.10}'.encode(), {}, {"a": "é".encode(), "b": b"1.10"}),
    "bytes of JSON after a byte order mark": Case(b'\xef\xbb\xbf{"a":1}', {"K": "a"}, {"K": b"1"}),
    "bytes of a JSON list": whole(b"[1]"),
    "UTF-16": broken('{"a":1}'.encode("utf-16"), "it is encoded in UTF-16, and JSON is UTF-8"),
    "UTF-16 without a mark": broken('{"a":1}'.encode("utf-16-be"), "it is encoded in UTF-16, and JSON is UTF-8"),
    "UTF-32": broken('{"a":1}'.encode("utf-32"), "it is encoded in UTF-32, and JSON is UTF-8"),
    "Latin-1": broken(b'{"a":\n"hunter2\xe9"}', "line 2, column 9: it is not UTF-8 from here on"),
    "byte order mark as Latin-1": broken('\u00ef\u00bb\u00bf{"a":1}', "line 1, column 1: other characters come first"),
    "two byte order marks": broken('\ufeff\ufeff{"a":1}', "line 1, column 1: other characters come first"),
    "hard blank first": broken('\u00a0{"a":1}', "line 1, column 1: other characters come first"),
    # What begins like JSON, and is not
    **{f"broken: {value[:30]!r}": broken(value, cause) for value, cause in {
        '{"a": NaN}': "line 1, column 7: NaN and Infinity are not JSON",
        '{"NaN": 1,\n"a": [-Infinity]}': "line 2, column 7: NaN and Infinity are not JSON",
        '{"key":"-----BEGIN\nhunter2"}': f"line 1, column 19: {CONTROL}",
        '{"a":"x",\r\n "key":"hunter2\tx"}': f"line 2, column 16: {CONTROL}",
        '{"a":"hunter2",}': "line 1, column 16: a comma has nothing after it",
        '{"a":[1,2,]}': "line 1, column 11: a comma has nothing after it",
        '{"a":"hunter2"} x': "line 1, column 17: the JSON has ended, and more text follows",
        '{"a":1}{"a":2}': "line 1, column 8: the JSON has ended, and more text follows",
        '{"a":"hunter2"': "line 1, column 15: a comma or a closing bracket is expected",
        '{"a":"hunter2': "line 1, column 6: a string has no end",
        '{"a"': "line 1, column 5: a colon is expected",
        '{"a":': "line 1, column 6: a value is expected, and a text needs double quotes",
        "{": "line 1, column 2: a property's name in double quotes is expected",
        "[": "line 1, column 2: a value is expected, and a text needs double quotes",
        "{a:hunter2}": "line 1, column 2: a property's name in double quotes is expected",
        "{'a':'hunter2'}": "line 1, column 2: a property's name in double quotes is expected",
        '{\\"a\\":\\"hunter2\\"}': "line 1, column 2: a property's name in double quotes is expected",
        '"{\\"a\\":\\"hunter2\\",}"': "line 1, column 1: other characters come first",
        "'{\"a\":\"hunter2\"}'": "line 1, column 1: other characters come first",
        '{"a":hunter2}': "line 1, column 6: a value is expected, and a text needs double quotes",
        '{"a":01}': "line 1, column 7: a comma or a closing bracket is expected",
        '{"a":"C:\\users"}': "line 1, column 10: \\u needs four hexadecimal digits",
        '{"a":"C:\\data"}': "line 1, column 9: a backslash escapes nothing: JSON writes a backslash as two",
        '{"a":1 "b":2}': "line 1, column 8: a comma or a closing bracket is expected",
        '{"a" 1}': "line 1, column 6: a colon is expected",
        '{"a":1} // x': "line 1, column 9: the JSON has ended, and more text follows",
        "{// x\n}": "line 1, column 2: a property's name in double quotes is expected",
        '{"a":"hunter2"}\0': "line 1, column 16: the JSON has ended, and more text follows",
        "[" * 100_000: "line 1, column 100001: 100000 brackets are not closed",
    }.items()},
    # Texts that a person takes for JSON
    **{f"like JSON: {value[:24]!r}": broken(value, cause) for cause, values in {
        "line 1, column 1: other characters come first": (
            '\0{"a":"hunter2"}', '\v{"a":"hunter2"}', '\f{"a":"hunter2"}', '\u2028{"a":"hunter2"}',
            '\u2029{"a":"hunter2"}', '\u200e{"a":"hunter2"}', '```json\n{"a":"hunter2"}\n```', '```\n["hunter2"]\n```',
            "“{“a”: “hunter2”}”", '\ufeff\ufeff{"a":"hunter2"}'),
        "line 1, column 2: a property's name in double quotes is expected": (
            "{“password”: “hunter2”}", "{\u2018password\u2019: \u2018hunter2\u2019}",
            "{«password»: «hunter2»}", '{password="hunter2"}',
            "{password: hunter2}", '{,"a":"hunter2"}', '{\\n  "a": "hunter2"}', '{\\n  \\"a\\": 1}', "{'a': None}",
            "{'hunter"),
        "line 1, column 2: a value is expected, and a text needs double quotes": (
            "[None]", "[True]", "[False, None]", "[“hunter2”]", "['hunter2']", "[undefined]"),
    }.items() for value in values},
    **{f"not like JSON: {value}": whole(value) for value in (
        '["15YyQ]q{hunter2}', "{}Mj=hunter2", "{'hunter#2", "[10.0.0.1]:80", "[5]hunter2", "[1]\nuser=hunter2",
        "[true]\nuser=hunter2", "{hunter:2", "{hunter", "{%hunter2%}", '[[x]]\ny="hunter2"', "`hunter2`", "[`hunter2`]",
    )},
    # JSON inside a quoted text
    "quoted JSON": Case(QUOTED_JSON, words=f"{QUOTED.format('@')}, or take it as it is with the expression @"),
    "quoted JSON after a byte order mark": Case("\ufeff" + QUOTED_JSON, {"K": "from_json(@).a"}, {"K": b"hunter2"}),
    "@ of quoted JSON": as_it_is(QUOTED_JSON),
    "from_json() of quoted JSON": Case(
        QUOTED_JSON, {"K": "from_json(@)", "L": "from_json(@).a", "M": "from_json(@) | b", "N": "url_encode(@)",
                      "O": "type(@)"},
        {"K": b'{"a":"hunter2","b":1.10}', "L": b"hunter2", "M": b"1.10",
         "N": b"%7B%22a%22%3A%22hunter2%22%2C%22b%22%3A1.10%7D",
         "O": b"string"}),
    **{f"quoted JSON for {expression}": Case(QUOTED_JSON, {"K": expression}, words=(
        f"key K (expression {expression!r}): {QUOTED.format('@')}{advice}")) for expression, advice in {
        "a": ", as in from_json(@).a", '"a-b".c': ', as in from_json(@)."a-b"', "a || 'x'": ", as in from_json(@).a",
        "{k: a}": ", as in from_json(@).a", "join('', ['x', a])": ", as in from_json(@).a", "[0]": "", "*": "",
    }.items()},
    "quoted text": whole('"hunter2"'), "quoted list": whole('"[1]"'),
    "broken for an expression": Case('{"a":"hunter2",}', {"K": "a", "L": "b"}, words=BROKEN.format(
        "line 1, column 16: a comma has nothing after it")),
    # Depth
    "100 levels": Case("{" + '"p":{' * 99 + "}" * 100, {}, {"p": b'{"p":' * 98 + b"{}" + b"}" * 98}),
    "102 levels": Case('{"p":' * 102 + "1" + "}" * 102, words=f"its property number 1: {TOO_DEEP}"),
    "12,000 levels": Case('{"p":' + "[" * 12_000 + "]" * 12_000 + "}", words=f"its property number 1: {TOO_DEEP}"),
    "too deep, in many ways": Case(f'{{"p":{"[" * 101}1{"]" * 101}}}', {"K": "p"},
                                   words=f"key K (expression 'p'): {TOO_DEEP}"),
    "too deep, beside the number that stands for it": Case(
        f'{{"p":[0E+1,0E+01],"d":{"[" * 101}0E+001{"]" * 101},"q":0E+1}}', {"K": "p", "L": "q"},
        {"K": b"[0E+1,0E+01]", "L": b"0E+1"}),
    **{f"digit {place} what is too deep": broken(
        text, f"line 1, column {column}: a comma or a closing bracket is expected")
       for place, text, column in (
        ("before", '{"a":[],"p":5' + "[" * 101 + "]" * 101 + ',"c":1}', 14),
        ("after", '{"a":[],"p":' + "[" * 101 + "]" * 101 + "5}", 215),
        ("after the second of", '{"a":' + "[" * 101 + "]" * 101 + ',"p":' + "[" * 101 + "]" * 101 + "5}", 415))},
    "fault after 12,000 levels": broken(
        '{"p":' + "[\n" * 12_000 + "]" * 12_000 + ",}", "line 12001, column 12002: a comma has nothing after it"
    ),
    # Properties that nobody has named
    **{f"beside {name}": Case(f'{{"a":"hunter2","b":1.10,{odd}}}', {"A": "a", "B": "b"},
                              {"A": b"hunter2", "B": b"1.10"}) for name, odd in {
        "null": '"c":null', "an object": '"c":{"d":[]}', "an odd name": '"c d/\\u0000":1', "no name": '"":1',
        "dots": '"..":1', "two of one name": '"c":1,"c":2', "two of one name in an object": '"c":{"d":1,"d":2}',
        "half a surrogate pair": '"c":"\\ud800"', "half a surrogate pair as a name": '"\\ud800":1',
        "12,000 levels": '"c":' + "[" * 12_000 + "]" * 12_000, "a huge number": '"c":1e999',
        "a number of 60,000 digits": '"c":' + "9" * 60_000, "a name of 300 letters": f'"{"n" * 300}":1',
        "__proto__": '"__proto__":{}',
    }.items()},
    "null that nobody named": Case('{"a":"hunter2","b":null}', {}, {"a": b"hunter2"}),
    "null in a list": one("[null,1.10]", b"[null,1.10]"),
    "null that was named": Case('{"a":null}', {"K": "a"},
                                words=f"key K (expression 'a'): {NOTHING}, or, for a constant, write K: \"'a'\""),
    "nothing but null": Case('{"a":null}', words="it is a JSON object whose properties are all null: give one a value"
                             " in AWS"),
    "no properties": Case("{}", words="it is a JSON object that has no properties: add one in AWS"),
    "two of one name": Case('{"b":1,"a":"hunter2","a":"hunter2"}', words=f"its property number 2: {TWICE}"),
    "two of one name, named": Case('{"a":"hunter2","a":2}', {"K": "a"}, words=f"key K (expression 'a'): {TWICE}"),
    "two of one name, inside": Case('{"a":{"b":1,"b":2}}', {"K": "a.b"}, words=f"key K (expression 'a.b'): {TWICE}"),
    "two of one name, as a part": Case('{"a":{"b":1,"b":2}}', {"K": "a"}, words=f"key K (expression 'a'): {TWICE}"),
    "two of one name, in a function": Case('{"a":"x","a":"y"}', {"K": "join('',[a])"},
                                           words=f"key K (expression \"join('',[a])\"): {TWICE}"),
    "two of one name, for type()": Case('{"a":"x","a":"y"}', {"K": "type(a)"},
                                        words=f"key K (expression 'type(a)'): {TWICE}"),
    **{f"{name} in {expression}": Case(value, {"K": expression.format(part)},
                                       words=f"key K (expression {expression.format(part)!r:.120}): {words}")
       for name, value, part, words in (
        ("two of one name", '{"a":["x"],"a":["y"],"c":"hunter2","l":[{}]}', "a", TWICE),
        ("too deep", '{"c":"hunter2","l":[{}],"a":' + '{"a":' * 100 + "1" + "}" * 101, ".".join("a" * 100), TOO_DEEP))
       for expression in (
        "{} || c", "!({})", "{} && c", "c && {}", "{} == c", "c != {}", "{} > `0` && c || 'd'", "{}[]", "{}.*", "{}[*]",
        "{}[?c]", "{} | c", "[{}, c]", "not_null({}, c)", "length({})", "to_string({})", "to_array({})", "type({})",
        "contains({}, c)", "merge({}, l[0])", "@.{}", "{}[0] || c", "not_null({}[0], c)", "{}.b || c", "{}[1:] || c",
       )},
    **{f"two of one name inside, in {expression}": Case('{"l":[{"b":1,"b":2}],"m":[{"b":1,"b":2}]}', {"K": expression},
                                                        words=f"key K (expression {expression!r}): {TWICE}")
       for expression in ("l == m", "l[0] != m[0]", "contains(l, m[0])", "l[*].*", "l[0].values(@)[0]", "to_string(l)",
                          "[l]", "map(&b, l)", "l[*].b || 'c'", "l[?b]", "l[].b", "sort_by(l, &b)")},
    "beside two of one name": Case('{"a":1,"a":2,"c":"z"}', {"K": "c || a", "L": "keys(@)[1]", "M": "length(@)"},
                                   {"K": b"z", "L": b"c", "M": b"2"}),
    "name that cannot be a key": Case('{"a":1,"hunter2 x":1}', words=NO_KEY.format(2)),
    "text for an expression": Case("hunter2", {"K": "a"}, words=f"key K (expression 'a'): {NOT_JSON}"),
    "text for an expression with a text in double quotes": Case("hunter2", {"K": 'join(":", [@])'}, words=(
        "key K (expression 'join(\":\", [@])'): join() takes a text, and gets a property that is not there, or is null:"
        " correct the expression, or add the property in AWS; if \":\" is meant as a text, it needs single quotes, as"
        " in ':': write K: \"join(':', [@])\"")),
    "bytes for an expression": Case(b"\xff", {"K": "a"}, words=f"key K (expression 'a'): {NOT_JSON}"),
    # Functions
    "url_encode()": Case('{"p":"m7%Zq#T?w[9:k~&x -._/é"}', {"K": "url_encode(p)"},
                         {"K": b"m7%25Zq%23T%3Fw%5B9%3Ak~%26x%20-._%2F%C3%A9"}),
    "url_encode() of a number": Case('{"p":1.10}', {"K": "url_encode(p)"}, {"K": b"1.10"}),
    "url_encode() of digits": Case("12345678", {"K": "url_encode(@)"}, {"K": b"12345678"}),
    "url_decode()": Case('{"p":"a%20b%2Bc+%C3%A9"}', {"K": "url_decode(p)"}, {"K": "a b+c+é".encode()}),
    "url_decode() of bytes": Case('{"p":"%ff%00"}', {"K": "url_decode(p)"}, {"K": b"\xff\0"}),
    "url_decode() of a bare %": Case('{"p":"hunter2%2"}', {"K": "url_decode(p)"}, words=(
        "key K (expression 'url_decode(p)'): url_decode() gets a text whose character number 8 is a % without two"
        " hexadecimal digits: correct it in AWS")),
    "base64_encode()": Case('{"u":"app","p":"é"}', {"K": "base64_encode(join(':', [u, p]))"},
                            {"K": base64.b64encode("app:é".encode())}),
    "base64_encode() of bytes": Case(b"\xff\0", {"K": "base64_encode(@)"}, {"K": b"/wA="}),
    "base64_decode()": Case('{"p":"aHVudGVyMg=="}', {"K": "base64_decode(p)"}, {"K": b"hunter2"}),
    "base64_decode() of a keystore": Case(f'{{"p":"{base64.b64encode(KEYSTORE).decode()}"}}',
                                          {"keystore.p12": "base64_decode(p)"}, {"keystore.p12": KEYSTORE}),
    "base64_decode() of lines": Case('{"p":"aHVu\\r\\ndGVyMg==\\n"}', {"K": "base64_decode(p)"}, {"K": b"hunter2"}),
    "base64_decode() for URLs": Case('{"p":"_-8"}', {"K": "base64_decode(p)"}, {"K": b"\xff\xef"}),
    "base64_decode() of a text": Case(base64.b64encode(KEYSTORE).decode(), {"K": "base64_decode(@)"}, {"K": KEYSTORE}),
    "base64_decode() of something else": Case('{"p":"hunter2!"}', {"K": "base64_decode(p)"}, words=(
        "key K (expression 'base64_decode(p)'): base64_decode() gets a text that is not base64 (its character number 8,"
        " without blanks, is none): correct it in AWS")),
    "base64_decode() of a part": Case('{"p":"aHVud"}', {"K": "base64_decode(p)"}, words=(
        "key K (expression 'base64_decode(p)'): base64_decode() gets a text that is not base64 (its end is cut):"
        " correct it in AWS")),
    "bytes in a text": Case('{"p":"/wA="}', {"K": "join('',['a',base64_decode(p)])"}, words=(
        "key K (expression \"join('',['a',base64_decode(p)])\"): join() takes a list of texts, and got a value of the"
        " wrong type: it is binary: encode it with base64_encode()")),
    "bytes in JSON": Case('{"p":"/wA="}', {"K": "[base64_decode(p)]"}, words=(
        "key K (expression '[base64_decode(p)]'): binary data cannot be a part of JSON: use base64_encode()")),
    "from_json()": Case('{"p":"{\\"u\\":1.10,\\"v\\":\\"x\\"}"}', {"K": "from_json(p).u", "L": "from_json(p)"},
                        {"K": b"1.10", "L": b'{"u":1.10,"v":"x"}'}),
    "from_json() of a JSON string": Case('["{\\"u\\":1.10}"]', {"K": "from_json([0]).u"},
                                         {"K": b"1.10"}),
    "from_json() of something else": Case('{"p":"{hunter2"}', {"K": "from_json(p)"}, words=(
        "key K (expression 'from_json(p)'): from_json() gets a text that is not JSON (line 1, column 2: a property's"
        " name in double quotes is expected): correct it in AWS")),
    "from_json() of base64": Case('{"p":"eyJ1IjogMS4xMH0="}', {"K": "from_json(base64_decode(p)).u"}, {"K": b"1.10"}),
    "to_json()": Case('{"p":"a\\"b","n":1.10}', {"K": "to_json(p)", "L": "to_json(@)"},
                      {"K": b'"a\\"b"', "L": b'{"p":"a\\"b","n":1.10}'}),
    "lower(), upper(), trim()": Case('{"p":" aB\\n"}', {"K": "lower(p)", "L": "upper(p)", "M": "trim(p)"},
                                     {"K": b" ab\n", "L": b" AB\n", "M": b"aB"}),
    "replace(), split()": Case('{"p":"a-b-c"}', {"K": "replace(p,'-','_')", "L": "split(p,'-')[1]"},
                               {"K": b"a_b_c", "L": b"b"}),
    "replace() of nothing": Case('{"p":"a"}', {"K": "replace(p,'','_')"}, words=(
        "key K (expression \"replace(p,'','_')\"): replace() looks for an empty text: give it the text to look for")),
    "configuration of Docker": Case('{"u":"app","p":"hunter2"}', {".dockerconfigjson": (
        '{auths: {"registry.example.com": {username: u, password: p, auth: base64_encode(join(\':\', [u, p]))}}}')},
        {".dockerconfigjson": b'{"auths":{"registry.example.com":{"username":"app","password":"hunter2",'
                              b'"auth":"YXBwOmh1bnRlcjI="}}}'}),
    "null for a function": Case('{"p":"hunter2"}', {"K": "join(p,q)"}, words=(
        "key K (expression 'join(p,q)'): join() takes a list of texts, and gets a property that is not there, or"
        " is null: correct the expression, or add the property in AWS")),
    **{f"null in {expression}": Case('{"p":"hunter2","l":[{"p":1}],"n":null}', {"K": expression},
                                     words=f"key K (expression {expression!r}): {NOTHING}")
       for expression in (
        "to_string(q)", "to_json(q)", "to_array(q)", "to_string(n)", "{p: p, q: q}", "[p, n]", "l[].{p: p, q: q}",
        "map(&q, l)", "join('', [p, ':', q])", "join('', ['postgres://', p, ':', to_string(port), '/app'])",
        "{auths: {\"r\": {username: usr, password: p}}}", "merge(l[0], {q: q})", "[q || n]", "[p && n]", "[p | q]",
        "[l[5]]", "[not_null(q, n)]", "[p][?@].q | [@, q]", "to_string(q || n) || p", "[`{\"q\": null}`.q]",
    )},
    **{f"null of the author in {expression}": Case('{"p":"x"}', {"K": expression}, {"K": data})
       for expression, data in {
        "to_string(`null`)": b"null", "to_json(`null`)": b"null", "to_array(`null`)": b"[null]",
        "{p: p, q: `null`}": b'{"p":"x","q":null}', "[p, q || `null`]": b'["x",null]', "[p && `null`]": b"[null]",
        "[not_null(q, `null`)]": b"[null]", "map(&`null`, [p])": b"[null]", "[p, `{\"a\": null}`]": b'["x",{"a":null}]',
        "[q || p]": b'["x"]', "[p | `null`]": b"[null]",
    }.items()},
    **{f"null inside what is copied whole by {expression}": Case('{"o":{"a":null,"l":[null]}}', {"K": expression},
                                                                 {"K": data})
       for expression, data in {
        "o": b'{"a":null,"l":[null]}', "to_string(o)": b'{"a":null,"l":[null]}', "[o]": b'[{"a":null,"l":[null]}]',
        "to_array(o)": b'[{"a":null,"l":[null]}]', "map(&l, [o])": b"[[null]]", "values(o)": b"[null,[null]]",
        "merge(o, {b: 'x'})": b'{"a":null,"l":[null],"b":"x"}', "type(o.a)": b"null", "o.a == `null`": b"true",
    }.items()},
    "number for join()": Case('{"p":"hunter2","n":1}', {"K": "join('',[p,n])"}, words=(
        "key K (expression \"join('',[p,n])\"): join() takes a list of texts, and got a value of the wrong type:"
        " convert it with to_string() or to_number()")),
    **{f"to_number() of no number, in {expression}": Case(
        '{"p":"hunter2","l":[1]}', {"K": expression}, words=f"key K (expression {expression!r}): {NO_NUMBER}")
       for expression in ("to_number(p)", "to_number(l)", "[to_number(p)]", "to_number(p) || to_number(l)",
                          "to_string(to_number(p))", "map(&to_number(@), [p])")},
    "to_number() of no number, with another value": Case('{"p":"x"}', {"K": "to_number(p) || `5432`"}, {"K": b"5432"}),
    "to_number() of nothing": Case('{"p":"x"}', {"K": "to_number(q)"},
                                   words=f"key K (expression 'to_number(q)'): {NOTHING}"),
    "to_number() of a text that is not JSON": Case("hunter2", {"K": "to_number(@)"},
                                                   words=f"key K (expression 'to_number(@)'): {NO_NUMBER}"),
    # Constants
    "constant": Case('{"p":1}', {"DB_HOST": "'db.internal'"}, {"DB_HOST": b"db.internal"}),
    "constant without its quotes": Case('{"p":1}', {"DB_HOST": "db.internal"}, words=(
        f"key DB_HOST (expression 'db.internal'): {NOTHING}, or, for a constant, write DB_HOST: \"'db.internal'\"")),
    "constant in double quotes": Case('{"p":1}', {"DB_HOST": '"db-1.internal"'}, words=(
        "key DB_HOST (expression '\"db-1.internal\"'): "
        f"{NOTHING}, or, for a constant, write DB_HOST: \"'db-1.internal'\"")),
    # Sizes
    "largest value": Case('{"p":"' + "x" * 65_000 + '"}', {}, {"p": b"x" * 65_000}),
    "more than a Secret holds": Case("x" * 65_000, {f"k{number}": "@" for number in range(17)}, words=(
        "its keys hold more than 1048576 bytes, a Secret's limit: take fewer of them with keyturn.dev/data")),
    "largest JSON for url_encode()": Case('{"p":"' + "%" * 65_000 + '"}', {"K": "url_encode(p)"},
                                          {"K": b"%25" * 65_000}),
    "url_encode() again and again": Case('{"p":"' + "%" * 65_000 + '"}',
                                         {"K": "url_encode(url_encode(url_encode(url_encode(p))))"}, words=(
        "key K (expression 'url_encode(url_encode(url_encode(url_encode(p))))'): its result could be far larger than a"
        " Secret can hold: simplify the expression")),
}  # fmt: skip

# Lines of the annotation `data` that have a mistake. Each line is mapped to the words of the message, and to corrected
# lines, most of which these words say to write. Each corrected line is mapped to the bytes that it gives with the value
# CORRECTED.
CORRECTED = '{"my-key":"hunter2","db":{"my-key":"inner"},"a b":"c","a":"x","b":"y"}'
PROPERTY = "a property with special characters needs double quotes, as in {}"
CONSTANT = "a constant needs single quotes, as in {}"
MISTAKES: Mapping[str, tuple[str, Mapping[str, bytes]]] = {
    "KEY: my-key": (
        "'my-key' is not a JMESPath expression: "
        + PROPERTY.format("KEY: '\"my-key\"'") + ", and " + CONSTANT.format("KEY: \"'my-key'\""),
        {"KEY: '\"my-key\"'": b"hunter2", "KEY: \"'my-key'\"": b"my-key"},
    ),
    "KEY: db.my-key": (
        "'db.my-key' is not a JMESPath expression: "
        + PROPERTY.format("KEY: 'db.\"my-key\"'") + ", and " + CONSTANT.format("KEY: \"'db.my-key'\""),
        {"KEY: 'db.\"my-key\"'": b"inner", "KEY: \"'db.my-key'\"": b"db.my-key"},
    ),
    "KEY: a b": (
        "'a b' is not a JMESPath expression: "
        + PROPERTY.format("KEY: '\"a b\"'") + ", and " + CONSTANT.format("KEY: \"'a b'\""),
        {"KEY: '\"a b\"'": b"c", "KEY: \"'a b'\"": b"a b"},
    ),
    "KEY: https://db.internal/app": (
        "'https://db.internal/app' is not a JMESPath expression: "
        + CONSTANT.format("KEY: \"'https://db.internal/app'\"") + ", and "
        + PROPERTY.format("KEY: '\"https://db\".\"internal/app\"'"),
        {"KEY: \"'https://db.internal/app'\"": b"https://db.internal/app"},
    ),
    "KEY: db.internal:5432": (
        "'db.internal:5432' is not a JMESPath expression: "
        + CONSTANT.format("KEY: \"'db.internal:5432'\"") + ", and " + PROPERTY.format("KEY: 'db.\"internal:5432\"'"),
        {"KEY: \"'db.internal:5432'\"": b"db.internal:5432"},
    ),
    "KEY: 10.0.0.1": (
        "'10.0.0.1' is not a JMESPath expression: "
        + CONSTANT.format("KEY: \"'10.0.0.1'\"") + ", and " + PROPERTY.format('KEY: \'"10"."0"."0"."1"\''),
        {"KEY: \"'10.0.0.1'\"": b"10.0.0.1"},
    ),
    "PORT: 5432": (
        "'5432' is not a JMESPath expression: "
        + CONSTANT.format("PORT: \"'5432'\"") + ", and " + PROPERTY.format("PORT: '\"5432\"'"),
        {"PORT: \"'5432'\"": b"5432"},
    ),
    "KEY: join('', [a, b)": (
        "\"join('', [a, b)\" is not a JMESPath expression: the '[' at character 10 is not closed before the ')' at"
        " character 15", {"KEY: join('', [a, b])": b"xy"},
    ),
    "KEY: join('', [a, b]": (
        "\"join('', [a, b]\" is not a JMESPath expression: the '(' at character 5 is not closed", {},
    ),
    "KEY: a]": (
        "'a]' is not a JMESPath expression: the ']' at character 2 closes nothing: remove it, or open it before", {},
    ),
    "KEY: join('', [a, 'b])": (
        "\"join('', [a, 'b])\" is not a JMESPath expression: the quote ' at character 14 is not closed", {},
    ),
    "KEY: a | | b": ("'a | | b' is not a JMESPath expression at '|', character 5", {}),
    "KEY: a ||": ("'a ||' is not a JMESPath expression: it ends too early", {"KEY: a || b": b"x"}),
    "KEY: a = b": ("'a = b' is not a JMESPath expression at '=', character 3", {"KEY: a == b": b"false"}),
    "KEY: b64enc(a)": ("the function 'b64enc' is not known: did you mean base64_encode()?",
                       {"KEY: base64_encode(a)": b"eA=="}),
    "KEY: url_encod(a)": ("the function 'url_encod' is not known: did you mean url_encode()?",
                          {"KEY: url_encode(a)": b"x"}),
    "KEY: join(a)": ("the function join() takes 2 arguments, and gets 1", {}),
    "KEY: merge()": ("the function merge() takes at least 1 argument, and gets 0", {}),
}  # fmt: skip

# The same for lines that are not YAML, or whose key or expression is not plain text in YAML. In the message, the words
# follow "annotation keyturn.dev/data".
NOT_YAML = " is not YAML (line 1, column {}): write one `KEY: expression` per line"
PLAIN_TEXT = ", line 1: key and expression must be plain text: write the line "
QUOTES = ", with the expression in quotes, as in "
YAML_MISTAKES: Mapping[str, tuple[str, Mapping[str, bytes]]] = {
    "KEY: @": (NOT_YAML.format(6) + QUOTES + 'KEY: "@"', {'KEY: "@"': CORRECTED.encode()}),
    "KEY: join(': ', [a, b])": (
        NOT_YAML.format(12) + QUOTES + "KEY: \"join(': ', [a, b])\"",
        {"KEY: \"join(': ', [a, b])\"": b"x: y"},
    ),
    "KEY: 'x' || a": (
        NOT_YAML.format(11) + QUOTES + "KEY: \"'x' || a\"",
        {"KEY: \"'x' || a\"": b"x"},
    ),
    "KEY: [a, b]": (
        PLAIN_TEXT + 'with the expression in quotes, as in KEY: "[a, b]"',
        {'KEY: "[a, b]"': b'["x","y"]'},
    ),
    "KEY: {c: a}": (
        PLAIN_TEXT + 'with the expression in quotes, as in KEY: "{c: a}"',
        {'KEY: "{c: a}"': b'{"c":"x"}'},
    ),
    "KEY=a": (
        " must hold at least one line `KEY: expression`, as in KEY: a; to take every key, remove it",
        {"KEY: a": b"x"},
    ),
    "KEY: [a": (" is not YAML (line 2, column 1): write one `KEY: expression` per line", {}),
}

# The value for the lines in ADVISED. Each of these lines has a mistake, and is mapped to the results of the lines that
# the message says to write, in their order.
ADVISED_VALUE = (
    '{"my-key":"m","password":"p@w","username":"u","port":5432,"db":{"my-key":"inner","host":"h"},"p":"q","a":"x"}'
)
ADVISED: Mapping[str, tuple[str, ...]] = {
    # Quotes, comments and signs that YAML does not take
    'KEY: "my-key': ("m",),
    'KEY: "password': ("p@w",),
    "KEY: \"join('', [username, p])": ("uq",),
    "KEY: 'my text": ("my text",),
    'KEY: "my-key\nB: b': ("m",),
    'KEY: "my-key\nB: "b"': ("m",),
    "KEY: @ # whole": (ADVISED_VALUE,),
    "KEY: @": (ADVISED_VALUE,),
    "KEY: `1` # one": ("1",),
    "KEY: [a, 'x #', p] # two": ('["x","x #","q"]',),
    "KEY: 'x' || a # one": ("x",),
    "KEY: join(': ', [username, p]) # two": ("u: q",),
    "KEY: join(' #', [username, p]): x": (),
    "KEY: *.example.com": ("[]", "*.example.com"),
    "KEY: %appdata%": ("%appdata%",),
    "KEY: @home": ("@home",),
    "KEY: user: x": ("user: x",),
    "KEY: 'x' && 'y'": ("y",),
    "KEY: {a: p}": ('{"a":"q"}',),
    # References of templates and shells
    "KEY: {{ .password }}": ("p@w",),
    "KEY: {{password}}": ("p@w",),
    "KEY: '{{ .db.host }}'": ("h",),
    "KEY: '{{- .my-key -}}'": ("m",),
    "KEY: '{{ index . \"my-key\" }}'": ("m",),
    "KEY: '{{ .password | b64enc }}'": ("cEB3",),
    "KEY: '{{ .password | urlquery }}'": ("p%40w",),
    "KEY: '{{ .password | squote }}'": (),
    "KEY: {password}": ("p@w",),
    "KEY: $.password": ("p@w", "$.password"),
    "KEY: .password": ("p@w", ".password"),
    "KEY: $password": ("p@w", "$password"),
    "KEY: ${username}": ("u",),
    "KEY: $(username)": ("u",),
    "KEY: ${my-key}": ("m",),
    "KEY: postgres://${username}:${password}@h/it": ("postgres://u:p@w@h/it",),
    "KEY: '{{ .username }}:{{ .password }}'": ("u:p@w",),
    "KEY: {{ .username }}:{{ .password }}": ("u:p@w",),
    # Texts in double quotes
    'KEY: join(":", [username, p])': ("u:q",),
    'KEY: \'join(": ", [username, p, "it\\"s"])\'': ('u: q: it"s',),
    'KEY: \'join("", ["x", "my-key"])\'': ("xm",),
    'KEY: \'{a: {"b-c": p, d: "e-f"}}\'': ('{"a":{"b-c":"q","d":"e-f"}}',),
    "KEY: 'split(p, \"-\")'": ('["q"]',),
    # Constants
    "KEY: postgres://h/db?sslmode=require": ("postgres://h/db?sslmode=require",),
    "KEY: h1:9092,h2:9092": ("h1:9092,h2:9092",),
    "KEY: a=b": ("a=b",),
    "KEY: c2VjcmV0==": ("c2VjcmV0==",),
    "KEY: s3cr3t!": ("s3cr3t!",),
    "KEY: it's": ("it's",),
    "KEY: it's o'clock": ("it's o'clock",),
    "KEY: hello, world!": ("hello, world!",),
    "KEY: C:\\data": ("C:\\data",),
    "KEY: C:\\it's\\": ("C:\\it's\\",),
    "KEY: a#b;c": ("a#b;c",),
    "KEY: db.internal": ("db.internal",),
    "KEY: my-key": ("m", "my-key"),
}
