"""The expressions that README, docs and demo show give the promised results."""

import base64
import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml
from jmespath.functions import Functions

from keyturn_local.demo.manifests import DATABASE_URL, bindings, database, database_secret
from keyturn_receiver.core.binding import DATA, SECRET_ID, Source, Target, read_binding, read_spec
from keyturn_receiver.core.functions import KeyturnFunctions
from keyturn_receiver.core.render import SecretVersion, render

ROOT = Path(__file__).parents[2]
BINDINGS = (ROOT / "docs" / "bindings.md").read_text()
PASSWORD = "m7%Zq#T?w[9:k~&x"  # with characters that have a meaning in URLs


def rendered(data: str, value: Any) -> dict[str, bytes]:
    binding = read_binding(Target("team", "db"), read_spec({SECRET_ID: "prod/db", DATA: data}))
    return render(binding, {Source("prod/db"): SecretVersion("arn", "prod/db", "v1", json.dumps(value))})


def yaml_blocks(page: str) -> list[Any]:
    return [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]


def test_url_of_the_readme_parses_back_to_its_parts() -> None:
    (manifest,) = yaml_blocks((ROOT / "README.md").read_text())
    data = rendered(
        manifest["metadata"]["annotations"][DATA], {"username": "app", "password": PASSWORD, "host": "db.internal"}
    )
    url = urllib.parse.urlsplit(data["DATABASE_URL"].decode())
    assert (url.username, urllib.parse.unquote(url.password or ""), url.hostname) == ("app", PASSWORD, "db.internal")
    assert data["PASSWORD"] == PASSWORD.encode()


def test_demo_uses_the_url_of_the_readme_and_expects_what_its_bindings_give() -> None:
    assert f"DATABASE_URL: {DATABASE_URL}\n" in (ROOT / "README.md").read_text()
    value = database("team-a")
    data = bindings()[0]["metadata"]["annotations"][DATA]
    assert rendered(data, value) == {key: text.encode() for key, text in database_secret(value).items()}
    assert value["password"] not in database_secret(value)["DATABASE_URL"]  # the URL has it in encoded form


def test_example_of_the_functions_gives_what_it_promises() -> None:
    (example,) = [block for block in yaml_blocks(BINDINGS) if DATA in block]
    keystore = bytes(range(256))
    value = {
        "username": "app", "password": PASSWORD, "host": "db.internal",
        "keystore": base64.encodebytes(keystore).decode(),
    }  # fmt: skip
    data = rendered(example[DATA], value)
    assert urllib.parse.unquote(urllib.parse.urlsplit(data["DATABASE_URL"].decode()).password or "") == PASSWORD
    assert data["keystore.p12"] == keystore
    auth = json.loads(data[".dockerconfigjson"])["auths"]["registry.example.com"]["auth"]
    assert base64.b64decode(auth).decode() == f"app:{PASSWORD}"


LINES = re.findall(r"`((?:[A-Z_]+|key\.json): [^`]+)`", BINDINGS.partition("### Expressions")[2].partition("###")[0])


@pytest.mark.parametrize("line", LINES)
def test_line_that_the_page_says_to_write_gives_a_value(line: str) -> None:
    value = {"password": PASSWORD, "my-key": "x", "db": {"my-key": "y"}}
    assert all(rendered(line, value).values())


def test_page_has_the_lines_for_each_kind_of_expression() -> None:
    assert len(LINES) >= 5


def test_page_has_a_row_for_every_function_of_our_own() -> None:
    table = BINDINGS.partition("### Functions")[2].partition("```")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)\(", row)}
    assert named == KeyturnFunctions.FUNCTION_TABLE.keys() - Functions.FUNCTION_TABLE.keys()
