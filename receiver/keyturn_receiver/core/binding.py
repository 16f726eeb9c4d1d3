"""Bindings determine which AWS secret fills which Secret, and how. This module reads them from a Secret's annotations.

The other modules use ``BindingSpec`` and ``Binding``. A ``BindingSpec`` has the annotations as they were written. A
``Binding`` has the same content after a check.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import yaml

from keyturn_receiver.core.aliases import SECRETS, Alias, alias_advice, read_aliases, scope_of
from keyturn_receiver.core.arn import full_name, refers_to
from keyturn_receiver.core.copies import copy_of
from keyturn_receiver.core.expression import is_property, validate_expression
from keyturn_receiver.core.expression_advice import text_advice
from keyturn_receiver.core.object_name import is_object_name
from keyturn_receiver.core.reloader import IGNORE, MATCH
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.core.rollout_pace import PACE, pace_faults, read_pace
from keyturn_receiver.core.rollout_switch import ROLLOUT, Switch, read_switch, switch_faults
from keyturn_receiver.core.vocabulary import BIND_LABEL, is_bind_value
from keyturn_receiver.core.yaml_advice import advice_for_line, line_of_assignment
from keyturn_receiver.errors import InvalidBinding

SECRET_ID = "keyturn.dev/secret-id"  # noqa: S105 - the name of an annotation
DATA = "keyturn.dev/data"
VERSION_STAGE = "keyturn.dev/version-stage"
SERVICE_ACCOUNT = "keyturn.dev/service-account"
ON_DELETE = "keyturn.dev/on-delete"
RECONCILE = "keyturn.dev/reconcile"
RESUME = "keyturn.dev/rollout-resume"  # names a change; the rollouts for this change continue in spite of failures
CURRENT = "AWSCURRENT"

# The annotations that determine the Secret's data. The other annotations in DECLARING do not change the data.
FILLING = (SECRET_ID, DATA, VERSION_STAGE, SERVICE_ACCOUNT, SECRETS)
DECLARING = (*FILLING, ON_DELETE, ROLLOUT, PACE, RESUME, RECONCILE, IGNORE, MATCH)

# https://kubernetes.io/docs/concepts/configuration/secret/#restriction-names-data
SECRET_KEY = re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z0-9]{1,253}")
# https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html#API_CreateSecret_RequestSyntax
SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@!-]{1,512}")
REGION = re.compile(r"[a-z]{2,9}(-[a-z0-9]{1,12}){2,4}")
SECRET_ARN = re.compile(
    rf"arn:aws[a-z-]*:secretsmanager:{REGION.pattern}:[0-9]{{12}}:secret:[A-Za-z0-9/_+=.@!-]{{1,519}}"
)

MAX_REQUEST = 64  # characters; a longer text of ``reconcile`` is recorded as a digest

MAX_DATA_ANNOTATION = 64 * 1024  # in characters
# The maximum length of all expressions of a `data` annotation together, in characters. An expression that only names a
# property does not count, because it is not parsed.
MAX_EXPRESSIONS = 16 * 1024

MAX_FAULTS = 10  # at most this many faults in one message: people read the message, and it is written to several places

# The cache keeps the parsed form of a `data` annotation only if the annotation has at most this number of characters.
_MAX_CACHED = 1024
_Selectors = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]  # the keys with their expressions, and the faults

# The C loader is ten times faster, but not every wheel contains it.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Target(NamedTuple):
    """The namespace and the name of a Secret. Most maps have targets as their keys, and tuples have the fastest
    hash."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """The version of an AWS secret that holds the staging label ``stage``.

    ``secret_id`` is a name or an ARN, exactly as the author of the binding wrote it.
    """

    secret_id: str
    stage: str = CURRENT


@dataclass(frozen=True, slots=True)
class AliasedSources:
    """Several AWS secrets, as pairs of alias and source. An expression selects from an object {alias: value}."""

    by_alias: tuple[tuple[str, Source], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the Secret. The JMESPath ``expression`` selects the key's value from ``source``.

    If ``source`` is one AWS secret, the expression selects from its JSON. Otherwise it selects from an object that maps
    the alias of each AWS secret in the expression to the secret's value.
    """

    key: str
    source: Source | AliasedSources
    expression: str

    @property
    def sources(self) -> frozenset[Source]:
        """The AWS secrets that the value of the key depends on."""
        if isinstance(self.source, Source):
            return frozenset({self.source})
        return frozenset(source for _, source in self.source.by_alias)


class OnDelete(StrEnum):
    """What to do with the Secret after AWS has deleted its source."""

    RETAIN = "retain"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class BindingSpec:
    """The binding exactly as the author of the annotations wrote it. ``read_binding`` checks it.

    ``service_account``, ``on_delete`` and ``data`` are None if the annotation is missing. ``hash`` changes whenever an
    annotation that determines the data changes. ``faults`` say what is wrong with the names of the Secret's annotations
    and labels. ``reconcile`` is the latest request to compare the Secret with AWS, or empty. ``switch`` is what the
    Secret says about restarts. ``rollout_faults`` say what is wrong with the Secret's annotations about restarts. The
    Secret is filled in spite of these faults. ``secrets`` is the text of the annotation ``keyturn.dev/secrets``, or
    None. ``pace`` is the number of rollouts for the Secret that may be unfinished at a time, or None. ``resume`` names
    a change of the Secret, or is empty. The rollouts for this change continue in spite of failures. ``reloader_ignore``
    and ``reloader_match`` are the texts of Reloader's annotations on the Secret, or None.
    """

    secret_id: str
    stage: str
    service_account: str | None
    on_delete: str | None
    data: str | None
    switch: Switch
    hash: str
    faults: tuple[str, ...] = ()
    reconcile: str = ""
    rollout_faults: tuple[str, ...] = ()
    reloader_ignore: str | None = None
    reloader_match: str | None = None
    secrets: str | None = None
    pace: int | None = None
    resume: str = ""

    @property
    def sources(self) -> tuple[Source, ...]:
        """The AWS secrets that the binding names. Lines that cannot be read are left out."""
        if self.secrets is None:
            return (Source(self.secret_id, self.stage),)
        return tuple(dict.fromkeys(self.source_of(alias) for alias in read_aliases(self.secrets)[0]))

    def source_of(self, alias: Alias) -> Source:
        """Return the source of an alias. If the alias names no staging label, the source has the staging label of the
        binding."""
        return Source(alias.secret_id, alias.stage or self.stage)

    @property
    def group(self) -> str:
        """The id of the binding's first AWS secret, or an empty text. Bindings with the same id are one group of the
        work queue."""
        sources = self.sources
        return sources[0].secret_id if sources else ""

    @property
    def account(self) -> str:
        """The ServiceAccount whose AWS role reads the secret. It is empty if the receiver's own role reads the
        secret."""
        return self.service_account or ""

    @property
    def names_a_source(self) -> bool:
        """Whether the binding names an AWS secret, and ``names`` returns true for each of its AWS secrets."""
        sources = self.sources
        return bool(sources) and all(self.names(source) for source in sources)

    def names(self, source: Source) -> bool:
        """Return whether the receiver may ask AWS and Kubernetes about an AWS secret and the ServiceAccount of the
        binding.

        The result is false if one of the two names is malformed, or if there are ``faults``, which keep the Secret from
        being filled.
        """
        if self.faults:
            return False
        is_account = self.service_account is None or is_object_name(self.service_account)
        return is_account and is_secret_id(source.secret_id)


@dataclass(frozen=True, slots=True)
class Binding:
    """The desired state of one Secret, after a check.

    If there are no ``entries``, the Secret gets a key for each top-level property of ``everything_of``. If that AWS
    secret is not a JSON object, the Secret gets the single key ``value``. ``origin`` is the kind of the object that
    declares the binding. ``service_account`` is the ServiceAccount whose AWS role reads the secret. It is empty if the
    receiver's own role reads the secret.
    """

    target: Target
    everything_of: Source | None
    entries: tuple[Entry, ...]
    origin: str
    service_account: str = ""
    on_delete: OnDelete = OnDelete.RETAIN

    @property
    def sources(self) -> frozenset[Source]:
        """The AWS secrets that this binding reads."""
        named = {source for entry in self.entries for source in entry.sources}
        return frozenset(named | ({self.everything_of} if self.everything_of else set()))

    @property
    def groups(self) -> "tuple[Binding, ...]":
        """The parts of the binding. The keys of one part depend on exactly the same AWS secrets.

        A binding of only one AWS secret is not divided.
        """
        if not self.entries or isinstance(self.entries[0].source, Source):
            return (self,)
        by_sources: dict[frozenset[Source], list[Entry]] = {}
        for entry in self.entries:
            by_sources.setdefault(entry.sources, []).append(entry)
        return tuple(replace(self, entries=tuple(entries)) for entries in by_sources.values())


def is_bound(metadata: Mapping[str, object]) -> bool:
    """Return whether a Secret is bound, according to its metadata.

    A Secret with the bind label is bound, unless another controller has made it as a copy. A label value such as
    "True", which means "true" but is spelt differently, also binds the Secret. The author is then told about the wrong
    value.
    """
    return has_bind_label(metadata) and copy_of(metadata) is None


def has_bind_label(metadata: Mapping[str, object]) -> bool:
    """Return whether a Secret has the bind label. The result is also true for a copy."""
    labels = metadata.get("labels")
    return isinstance(labels, Mapping) and is_bind_value(labels.get(BIND_LABEL))


def is_secret_id(secret_id: str) -> bool:
    """Return whether a text has the form of a name or an ARN of an AWS secret."""
    return bool((SECRET_ARN if secret_id.startswith("arn:") else SECRET_NAME).fullmatch(secret_id))


def versions_of(source: Source, version_ids: Mapping[str, str]) -> dict[str, str]:
    """Return those entries of ``Record.version_ids`` that belong to a source."""
    found: dict[str, str] = {}
    for key, version_id in version_ids.items():
        arn, stage = split_version_key(key)
        if stage == source.stage and refers_to(source.secret_id, arn, full_name(arn)):
            found[key] = version_id
    return found


def tell_all(faults: Sequence[str]) -> str:
    """Join the first MAX_FAULTS faults into one message. The message also tells how many more faults there are."""
    more = len(faults) - MAX_FAULTS
    return "; ".join(faults[:MAX_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def binding_hash(annotations: Mapping[str, str]) -> str:
    """Return a hash of the annotations that determine the data. A changed hash reveals an edit, even an edit that was
    made while no receiver was running."""
    parts = ((name, annotations[name]) for name in FILLING if name in annotations)
    return hashlib.sha256(repr(tuple(parts)).encode(errors="surrogatepass")).hexdigest()[:16]


def read_spec(annotations: Mapping[str, str], faults: tuple[str, ...] = ()) -> BindingSpec:
    """Read the binding from a labelled Secret's annotations, without checking it. ``faults`` are the faults in the
    names of the Secret's annotations and labels (``vocabulary.secret_faults``)."""
    service_account, on_delete = annotations.get(SERVICE_ACCOUNT), annotations.get(ON_DELETE)
    return BindingSpec(
        secret_id=annotations.get(SECRET_ID, "").strip(),
        stage=annotations.get(VERSION_STAGE, CURRENT).strip(),
        service_account=None if service_account is None else service_account.strip(),
        on_delete=None if on_delete is None else on_delete.strip(),
        data=annotations.get(DATA),
        switch=Switch.UNKNOWN if pace_faults(annotations) else read_switch(annotations),
        # No record has an empty hash, so a binding with faults never looks as if it had been applied.
        hash="" if faults else binding_hash(annotations),
        faults=faults,
        reconcile=_request(annotations.get(RECONCILE, "")),
        rollout_faults=(*switch_faults(annotations), *pace_faults(annotations)),
        reloader_ignore=annotations.get(IGNORE),
        reloader_match=annotations.get(MATCH),
        secrets=annotations.get(SECRETS),
        pace=read_pace(annotations),
        resume=annotations.get(RESUME, "").strip()[:MAX_REQUEST],
    )


def _request(text: str) -> str:
    """Return the text that is recorded for a request to reconcile. It is a digest if the request is long or
    unprintable."""
    if len(text) <= MAX_REQUEST and text.isprintable():
        return text.strip()
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def read_binding(target: Target, spec: BindingSpec) -> Binding:
    """Check a binding that ``read_spec`` has returned (docs/bindings.md).

    Raises InvalidBinding. Its message lists up to MAX_FAULTS faults, and says what to write instead.
    """
    faults = list(spec.faults)
    aliases: Mapping[str, Source] = {}
    if spec.secrets is not None:
        aliases = _read_sources(spec, faults)
    elif not spec.secret_id and not any(f"did you mean {SECRET_ID}?" in fault for fault in faults):
        faults.append(f"annotation {SECRET_ID} is missing: set it to the name or ARN of an AWS secret")
    elif spec.secret_id and not is_secret_id(spec.secret_id):
        faults.append(f"annotation {SECRET_ID} is not the name or ARN of an AWS secret: copy it from the console")
    if not 1 <= len(spec.stage) <= 256:
        faults.append(f"annotation {VERSION_STAGE} must be 1 to 256 characters: name a staging label such as {CURRENT}")
    if spec.service_account is not None and not is_object_name(spec.service_account):
        faults.append(f"annotation {SERVICE_ACCOUNT} is not the name of a ServiceAccount: name one of this namespace")
    on_delete = OnDelete.RETAIN if spec.on_delete is None else spec.on_delete
    if on_delete not in {each.value for each in OnDelete}:
        faults.append(f"annotation {ON_DELETE} must be {OnDelete.RETAIN} or {OnDelete.DELETE}")
    source = Source(spec.secret_id, spec.stage)
    entries: tuple[Entry, ...] = ()
    everything_of: Source | None = source
    selectors: tuple[tuple[str, str], ...] = ()
    if spec.data is not None:
        everything_of = None
        selectors, selector_faults = _read_selectors(spec.data, tuple(aliases))
        faults += selector_faults
        entries = tuple(Entry(key, source, expression) for key, expression in selectors)
    if spec.secrets is not None:
        everything_of = None
        entries = _read_aliased(selectors, aliases, spec.data, faults)
    if faults:
        raise InvalidBinding(tell_all(faults))
    return Binding(target, everything_of, entries, "Secret", spec.account, OnDelete(on_delete))


def _read_sources(spec: BindingSpec, faults: list[str]) -> Mapping[str, Source]:
    """Return the sources by alias. Append what is wrong with them to ``faults``."""
    aliases, alias_faults = read_aliases(spec.secrets or "")
    if spec.secret_id:
        faults.append(f"annotations {SECRET_ID} and {SECRETS} exclude each other: keep one")
    faults += alias_faults
    faults += (
        f"annotation {SECRETS}: alias {alias.name} is not the name or ARN of an AWS secret: copy it from the console"
        for alias in aliases
        if not is_secret_id(alias.secret_id)
    )
    return {alias.name: spec.source_of(alias) for alias in aliases}


def _read_aliased(
    selectors: Sequence[tuple[str, str]], aliases: Mapping[str, Source], data: str | None, faults: list[str]
) -> tuple[Entry, ...]:
    """Return the entries of a binding of several AWS secrets. Append what is wrong with them to ``faults``."""
    if data is None:
        example = next(iter(aliases), "alias")
        faults.append(
            f"annotation {DATA} is missing, and {SECRETS} needs it: write one `KEY: expression` per line, such as"
            f" `PASSWORD: {example}.password`"
        )
    if faults:
        return ()
    entries: list[Entry] = []
    for key, expression in selectors:
        scope = scope_of(expression)
        known = ", ".join(aliases)
        if scope.whole:
            faults.append(
                f"annotation {DATA}: key {key}: its expression takes all AWS secrets together: begin with an alias, as"
                f" in {next(iter(aliases))}.password or {next(iter(aliases))}; the aliases are {known}"
            )
        elif unknown := sorted(scope.names - aliases.keys()):
            faults.append(
                f"annotation {DATA}: key {key}: {', '.join(unknown):.80} is no alias in {SECRETS}: use one of {known}"
                + (alias_advice(expression, key, unknown[0], tuple(aliases)) or text_advice(expression, key, aliases))
            )
        named = tuple((alias, aliases[alias]) for alias in aliases if alias in scope.names)
        entries.append(Entry(key, AliasedSources(named), expression))
    used = {
        alias for entry in entries if isinstance(entry.source, AliasedSources) for alias, _ in entry.source.by_alias
    }
    if unused := [alias for alias in aliases if alias not in used]:
        faults.append(
            f"annotation {SECRETS}: no expression in {DATA} uses {', '.join(unused)}: remove the line, or use it"
        )
    return tuple(entries)


def _read_selectors(text: str, aliases: tuple[str, ...]) -> _Selectors:
    return (_read_and_keep_selectors if len(text) <= _MAX_CACHED else _parse_selectors)(text, aliases)


@lru_cache(maxsize=1024)
def _read_and_keep_selectors(text: str, aliases: tuple[str, ...]) -> _Selectors:
    return _parse_selectors(text, aliases)


def _parse_selectors(text: str, aliases: tuple[str, ...]) -> _Selectors:
    """Parse the annotation `data`. Return the keys with their expressions, and the faults."""
    faults: list[str] = []
    selectors: dict[str, str] = {}
    expressions = 0  # characters
    for key, expression in _read_map(text, aliases, faults):
        expressions += 0 if is_property(expression) else len(expression)
        if expressions > MAX_EXPRESSIONS:
            faults.append(
                f"annotation {DATA}: its expressions have more than {MAX_EXPRESSIONS} characters: bind several Secrets"
            )
            break
        if not SECRET_KEY.fullmatch(key):
            advice = "is not a valid key for a Secret: use letters, digits, '-', '_', '.'"
            faults.append(f"annotation {DATA}: {key!r:.80} {advice}")
        elif key in selectors:
            faults.append(f"annotation {DATA}: key {key} appears twice: keep one")
        elif fault := validate_expression(expression, key, aliases):
            faults.append(f"annotation {DATA}: key {key}: {fault}")
        else:
            selectors[key] = expression
    return tuple(selectors.items()), tuple(faults)


def _read_map(text: str, aliases: Sequence[str], faults: list[str]) -> list[tuple[str, str]]:
    if len(text) > MAX_DATA_ANNOTATION:
        faults.append(f"annotation {DATA} is longer than {MAX_DATA_ANNOTATION} characters: bind several Secrets")
        return []
    # The annotation is parsed into YAML nodes, not into values. So `NO: port` keeps its key "NO", a duplicate key is
    # noticed, and a YAML alias of a list or a map is refused.
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        advice = advice_for_line(text, mark.line, aliases) if mark else ""
        faults.append(
            f"annotation {DATA} is not YAML{where}: write one `KEY: expression` per line"
            + (f", {advice}" if advice else "")
        )
        return []
    if not isinstance(node, yaml.MappingNode) or not node.value:
        assignment = line_of_assignment(text)
        faults.append(
            f"annotation {DATA} must hold at least one line `KEY: expression`"
            + (f", as in {assignment}" if assignment else "")
            + "; to take every key, remove it"
        )
        return []
    pairs: list[tuple[str, str]] = []
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
            pairs.append((key.value, value.value))
        else:
            line = key.start_mark.line
            # Advice for one line takes a time that is proportional to the length of the whole text.
            advice = advice_for_line(text, line, aliases) if len(faults) < MAX_FAULTS else ""
            faults.append(
                f"annotation {DATA}, line {line + 1}: key and expression must be plain text: "
                + (f"write the line {advice}" if advice else "quote the expression")
            )
    if len(pairs) == len(node.value):
        lines = _lines_with_marks(text)
        for line in lines:
            advice = advice_for_line(text, line, aliases)
            faults.append(
                f"annotation {DATA}, line {line + 1}: YAML takes !, & and * before a text as a mark of its own, and not"
                f" as a part of the expression: remove it, or {f'write the line {advice}' if advice else 'use quotes'}"
            )
        return [] if lines else pairs
    return pairs


def _lines_with_marks(text: str) -> list[int]:
    """Return the numbers, from 0, of the first MAX_FAULTS lines of valid YAML that have a tag, an anchor or an alias.

    The values of the parser's nodes do not contain these marks. Without this check, a part of an expression would be
    lost without a message.
    """
    if not any(mark in text for mark in "!&*"):
        return []  # most annotations have no mark
    events = yaml.parse(text, Loader=_Loader)
    marked = (each.start_mark for each in events if getattr(each, "tag", None) or getattr(each, "anchor", None))
    return list(islice(dict.fromkeys(mark.line for mark in marked if mark), MAX_FAULTS))
