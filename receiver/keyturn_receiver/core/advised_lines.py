"""Lines of the annotation `data` that error messages advise people to write. Each line is valid YAML and has a valid
expression.

YAML removes one pair of quotes before JMESPath reads the expression, so some lines need two pairs.
"""

import json
import re
from collections.abc import Sequence

from keyturn_receiver.core.functions import SYNONYMS, KeyturnFunctions, arity_fault

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # a name that needs no quotes in JMESPath
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")  # an expression that needs no quotes in YAML
# References in the syntax of Go templates, shells and Kubernetes.
_REFERENCE = re.compile(
    r"""\{\{-?\s*(?:index\s+\.[\w.]*\s+)?\$?\.?"?(?P<template>[A-Za-z_][\w.-]*)"?\s*(?:\|\s*(?P<function>\w+)\s*)?-?\}\}
      | \$\{(?P<shell>[A-Za-z_][\w.-]*)\} | \$\((?P<kubernetes>[A-Za-z_][\w.-]*)\)""",
    re.VERBOSE,
)
# Forms that count as a reference only if they are the whole text, such as `.password` and `{password}`.
_REFERENCE_ALONE = re.compile(r"(?:\$\.?|\.)(?P<path>[A-Za-z_][\w.-]*)|\{(?P<braces>[A-Za-z_][\w.-]*)\}")
_TEXT_BESIDE = re.compile(r"""[^()\[\]{}"'`|]*""")


def quoted(expression: str) -> str:
    """Return an expression as a YAML scalar in quotes."""
    if '"' in expression or "\\" in expression:
        return "'" + expression.replace("'", "''") + "'"
    return f'"{expression}"'


def text_literal(text: str) -> str:
    """Return an expression that evaluates to exactly the given text."""
    if "\\" in text:  # a text in single quotes cannot have a backslash before a quote
        return "`" + json.dumps(text, ensure_ascii=False).replace("`", "\\`") + "`"
    return "'" + text.replace("'", "\\'") + "'"


def constant_line(key: str, text: str) -> str:
    """Return the line that sets ``key`` to the constant ``text``."""
    return f"{key}: {quoted(text_literal(text))}"


def property_path(path: str, aliases: Sequence[str] = ()) -> str:
    """Return the expression that selects a property. Names in the path are quoted if JMESPath needs quotes.

    If there are ``aliases``, the expression begins with an alias. If ``path`` does not begin with an alias, the first
    alias is put in front of it.
    """
    names = [name for name in path.split(".") if name]
    if aliases and names[:1] != [name for name in names[:1] if name in aliases]:
        names.insert(0, aliases[0])
    return ".".join(name if _NAME.fullmatch(name) else json.dumps(name) for name in names)


def property_line(key: str, path: str, aliases: Sequence[str] = ()) -> str:
    """Return the line that sets ``key`` to the property at ``path``."""
    path = property_path(path, aliases).replace("'", "''")
    return f"{key}: '{path}'"


def reference_line(key: str, text: str, aliases: Sequence[str] = ()) -> str | None:
    """Return the line for a text that refers to properties in the syntax of a template or a shell. Return None if the
    text has no such reference, if it uses an unknown function of a template, or if it has a bracket or a quote outside
    of the references."""
    if alone := _REFERENCE_ALONE.fullmatch(text):
        return _line(key, property_path(alone["path"] or alone["braces"], aliases))
    parts: list[str] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        parts += [text_literal(text[end : match.start()])] * (match.start() > end)
        path = property_path(match["template"] or match["shell"] or match["kubernetes"], aliases)
        function = _function(match["function"]) if match["function"] else ""
        if function is None:
            return None
        parts.append(f"{function}({path})" if function else path)
        end = match.end()
    if not parts or not _TEXT_BESIDE.fullmatch(_REFERENCE.sub("", text)):
        return None
    parts += [text_literal(text[end:])] * (end < len(text))
    return _line(key, parts[0] if len(parts) == 1 else f"join('', [{', '.join(parts)}])")


def _line(key: str, expression: str) -> str:
    return f"{key}: {expression if _PLAIN.fullmatch(expression) else quoted(expression)}"


def _function(name: str) -> str | None:
    """Return Keyturn's name for the template function ``name``. Return None if Keyturn has no such function, or if
    Keyturn's function does not take exactly one argument."""
    name = SYNONYMS.get(name.lower(), name.lower())
    return name if name in KeyturnFunctions.FUNCTION_TABLE and not arity_fault(name, 1) else None
