"""Aliases: the names under which the expressions of one Secret reach several AWS secrets.

The annotation ``keyturn.dev/secrets`` has one alias on each line. The lines use only a small part of YAML. They are
read without a YAML parser, because a watch shows many changes, and the annotation is read at each of them. A parser
would be too slow.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from keyturn_receiver.core.advised_lines import property_line
from keyturn_receiver.core.expression import is_property, syntax_tree

SECRETS = "keyturn.dev/secrets"
MAX_ALIASES = 10  # each alias costs one read of AWS, and all of them together fill only one Secret
MAX_ALIAS = 64  # characters
MAX_SECRETS_ANNOTATION = 4000  # characters

FORM = "write one line `alias: name-or-ARN` for each AWS secret"
STAGE_FORM = "`alias: {id: name-or-ARN, stage: AWSPENDING}`"

_ALIAS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # the unquoted identifiers of JMESPath
_PLAIN = re.compile(r"""[^-\s"'{}\[\],#&*!|>%@`?:][^\s"'{}\[\],#]*|""")  # a scalar that needs no quotes in YAML
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}")  # a path to a property, without quotes
_QUOTED_NAME = re.compile(r'"[^"\\]*"')

# Kinds of nodes in which only the first child gets the input of the node. The other children get the output of the
# first child.
_FIRST_CHILD = frozenset(
    {"subexpression", "index_expression", "pipe", "flatten", "projection", "value_projection", "filter_projection"}
)
_WHOLE = frozenset({"current", "identity"})
# Kinds of nodes whose children do not get the input of the node.
_LEAVES = frozenset({"literal", "expref", "index", "slice"})


@dataclass(frozen=True, slots=True)
class Alias:
    """One line of the annotation, as its author wrote it. ``stage`` is empty if the line names no staging label."""

    name: str
    secret_id: str
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """The parts of a document that an expression can reach: the properties in ``names``, and the whole document if
    ``whole`` is true."""

    names: frozenset[str]
    whole: bool = False


def read_aliases(text: str) -> tuple[tuple[Alias, ...], tuple[str, ...]]:
    """Read the annotation ``keyturn.dev/secrets``. Return its aliases and its faults."""
    if len(text) > MAX_SECRETS_ANNOTATION:
        return (), (f"annotation {SECRETS} is longer than {MAX_SECRETS_ANNOTATION} characters: bind several Secrets",)
    return _read(text)


@lru_cache(maxsize=512)
def _read(text: str) -> tuple[tuple[Alias, ...], tuple[str, ...]]:
    aliases: dict[str, Alias] = {}
    faults: list[str] = []
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if not _is_blank(line)]
    for number, line in lines:
        alias, fault = _read_line(line)
        if fault:
            faults.append(f"annotation {SECRETS}, line {number}: {fault}")
        elif alias and alias.name in aliases:
            faults.append(f"annotation {SECRETS}: alias {alias.name} appears twice: keep one")
        elif alias:
            aliases[alias.name] = alias
    if not lines:
        faults.append(f"annotation {SECRETS} is empty: {FORM}")
    if len(aliases) > MAX_ALIASES:
        faults.append(
            f"annotation {SECRETS} names {len(aliases)} AWS secrets, and {MAX_ALIASES} is the most: bind several"
            " Secrets"
        )
        aliases = {}
    return tuple(aliases.values()), tuple(faults)


def scope_of(expression: str) -> Scope:
    """Return the parts of a document that a valid expression can reach. These parts do not depend on the document."""
    if is_property(expression):
        return Scope(frozenset({expression}))
    names: set[str] = set()
    whole = False
    for node in _nodes_on_input(syntax_tree(expression)):
        whole = whole or node["type"] in _WHOLE
        if node["type"] == "field":
            names.add(node["value"])
    return Scope(frozenset(names), whole)


def alias_advice(expression: str, key: str, unknown: str, aliases: Sequence[str]) -> str:
    """Return advice on what to write instead of ``unknown``, which the expression uses as an alias. The advice
    completes a sentence. It is empty if there is no advice."""
    lower = {alias.lower(): alias for alias in reversed(aliases)}
    if _QUOTED_NAME.fullmatch(expression):
        return f", as in {property_line(key, unknown, aliases)}"
    near = next(iter(difflib.get_close_matches(unknown[:MAX_ALIAS].lower(), lower, 1, 0.6)), None)
    if not _PATH.fullmatch(expression):
        return f"; did you mean {lower[near]}?" if near else ""
    path = expression.removeprefix(unknown)
    return f", as in {key}: {lower[near]}{path}" if near else f", as in {key}: {aliases[0]}.{expression}"


def _nodes_on_input(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the nodes whose input is the whole document."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if node["type"] in _LEAVES:
            continue
        pending += node["children"][:1] if node["type"] in _FIRST_CHILD else node["children"]


def _is_blank(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _read_line(line: str) -> tuple[Alias | None, str]:
    """Return the alias on one line, or None and what is wrong with the line."""
    head, colon, rest = _without_comment(line).partition(":")
    name = _unquoted(head.strip())
    if not colon or name is None or not (rest[:1].isspace() or not rest):
        return None, FORM
    rest = rest.strip()
    if not _ALIAS.fullmatch(name) or len(name) > MAX_ALIAS:
        return None, (
            f"{name!r:.80} is not an alias: use at most {MAX_ALIAS} letters, digits and '_', and begin with a letter"
        )
    if rest.startswith("{") and rest.endswith("}"):
        return _read_fields(name, rest[1:-1].strip().removesuffix(","))
    secret_id = _unquoted(rest)
    if not secret_id:
        return None, f"alias {name} names no AWS secret: {FORM}, or {STAGE_FORM}"
    return Alias(name, secret_id), ""


def _read_fields(name: str, text: str) -> tuple[Alias | None, str]:
    fields: dict[str, str] = {}
    for part in text.split(","):
        head, _, rest = part.partition(":")
        field, content = head.strip(), _unquoted(rest.strip()) if rest[:1].isspace() else None
        if field not in ("id", "stage") or field in fields or content is None:
            return None, f"alias {name}: write id and stage, each once, as in {STAGE_FORM}"
        fields[field] = content
    if not fields.get("id"):
        return None, f"alias {name} names no AWS secret: write {STAGE_FORM}"
    if not 1 <= len(fields.get("stage", "-")) <= 256:
        return None, f"alias {name}: its stage must be 1 to 256 characters: name a staging label such as AWSPENDING"
    return Alias(name, fields["id"], fields.get("stage", "")), ""


def _without_comment(line: str) -> str:
    before, _, _ = line.replace("\t#", " #").partition(" #")
    return before


def _unquoted(text: str) -> str | None:
    """Return a scalar of YAML without its quotes. Return None if the text is not a simple scalar, or has a backslash or
    the same quote within its quotes."""
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        inner = text[1:-1]
        return None if text[0] in inner or "\\" in inner else inner.strip()
    return text if _PLAIN.fullmatch(text) else None
