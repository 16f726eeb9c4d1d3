"""Subject of a command: an AWS secret with the Secrets that are made from it, or one Secret.

`shop/db` may be the name of an AWS secret or of a Secret. If the option ``--namespace`` is not given, the AWS secret is
looked up first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keyturn_cli.advice import advised, chosen
from keyturn_cli.bound_secrets import Bound, NotBound, get_bound, list_bound, not_bound
from keyturn_cli.cluster import Cluster
from keyturn_cli.errors import Forbidden, NotFound, UsageError
from keyturn_cli.options import read_target
from keyturn_cli.watched_secrets import get_watched
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import Target, is_secret_id
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.core.vocabulary import BIND_LABEL

_NAME_IT = "name the namespace of the Secret: -n NAMESPACE"


@dataclass(frozen=True, slots=True)
class Subject:
    """Subject of a command. ``secret_id`` is the name or ARN of the AWS secret, or None if the subject is one Secret.
    If the caller may not list all Secrets, ``note`` says how the subject was found."""

    name: str
    bound: Sequence[Bound]
    secret_id: str | None = None
    note: str = ""

    @property
    def is_watched(self) -> bool:
        """Whether the subject is one Secret that another controller or a person fills."""
        return any(each.is_watched for each in self.bound)

    @property
    def region(self) -> str:
        """The AWS region from which the Secrets were filled, or an empty text if no Secret was filled yet."""
        arns = (split_version_key(key)[0] for each in self.bound for key in each.record.version_ids)
        return next((named for arn in arns if (named := region(arn))), "")

    def only_secret_id(self, otherwise: str) -> str:
        """Return the name or ARN of the subject's only AWS secret. If there is not exactly one, raise UsageError with
        the advice ``otherwise``."""
        ids = [self.secret_id] if self.secret_id else sorted({each for one in self.bound for each in one.secret_ids})
        if len(ids) != 1:
            raise UsageError(f"{self.name} is made from {len(ids)} AWS secrets", otherwise)
        return ids[0]


def find_subject(
    cluster: Cluster, text: str, namespace: str | None, with_watched: bool = False, of_aws: bool = False
) -> Subject:
    """Return the subject with the name ``text``. If ``with_watched`` is true, it may also be a watched Secret. If
    ``of_aws`` is true, it can only be an AWS secret.

    Raises UsageError, NotFound and CliError.
    """
    if not is_secret_id(text):
        raise UsageError(f"{text} is no name of a secret", "write the name or ARN of an AWS secret, or NAMESPACE/NAME")
    if namespace and (found := _secret(cluster, text, namespace, with_watched)):
        return found
    try:
        bound = list(list_bound(cluster, namespace, text))
    except Forbidden:
        if namespace:
            raise
        return _find_in_part(cluster, text, with_watched, of_aws)
    if bound:
        return Subject(text, bound, text)
    if not namespace and not of_aws and (found := _secret(cluster, text, cluster.namespace, with_watched)):
        return found
    raise _not_found(
        cluster,
        text,
        f"see what is bound: {advised('status', *([] if namespace else ['-A']), context=cluster.context)}",
    )


def list_allowed(cluster: Cluster) -> tuple[Sequence[Bound], str]:
    """Return the bound Secrets of all namespaces. If the caller may not list these, return those of the context's
    namespace, and a note.

    Raises Forbidden if the caller may list neither, and the other errors of ``Cluster``.
    """
    try:
        return list(list_bound(cluster)), ""
    except Forbidden:
        if (bound := _listed(cluster, cluster.namespace)) is None:
            raise lists_nothing(cluster, cluster.namespace) from None
        return bound, _only(cluster.namespace)


def lists_nothing(cluster: Cluster, namespace: str) -> Forbidden:
    """Return the error for a caller who may list the Secrets neither of all namespaces nor of this one."""
    return Forbidden(
        f"{cluster.context}: you may list the Secrets neither of all namespaces nor of namespace {namespace}",
        f"ask for this right, or {_NAME_IT}" if chosen().takes_namespace else "ask for this right",
    )


def _find_in_part(cluster: Cluster, text: str, with_watched: bool, of_aws: bool) -> Subject:
    """Return the subject with the name ``text`` if the caller may not list the Secrets of all namespaces.

    The Secrets of the context's namespace that are bound to the AWS secret come first. If ``text`` is NS/NAME, that
    Secret and then the other Secrets of its namespace come next.
    """
    own, unbound = cluster.namespace, None
    target = _target(text, own)
    listed = {own: _listed(cluster, own, text)}
    if target and not listed[own]:
        try:
            found = None if of_aws else _secret(cluster, text, own, with_watched)
        except Forbidden:
            found = None  # the caller may have the right to list
        except NotBound as error:
            found, unbound = None, error
        if found:
            note = f"you may not list the Secrets of all namespaces: {text} is taken for the {found.name}"
            return replace(found, note=note)
        listed |= {target.namespace: _listed(cluster, target.namespace, text)}
    for namespace, bound in listed.items():
        if bound:
            return Subject(text, bound, text, _only(namespace))
    if unbound:
        raise unbound
    may_list = [namespace for namespace, bound in listed.items() if bound is not None]
    if not may_list:
        raise lists_nothing(cluster, target.namespace if target else own)
    raise _not_found(
        cluster, text, _NAME_IT if chosen().takes_namespace else "ask for the right to list Secrets", may_list
    )


def _target(text: str, namespace: str) -> Target | None:
    try:
        return read_target(text, namespace)
    except UsageError:
        return None


def _secret(cluster: Cluster, text: str, namespace: str, with_watched: bool) -> Subject | None:
    target = _target(text, namespace)
    if target is None:
        return None
    try:
        found = get_bound(cluster, target)
    except NotFound:
        return None
    if found is None:
        watched = get_watched(cluster, target)
        if watched is None or not with_watched:
            raise not_bound(target, watched is not None)
        found = watched
    return Subject(f"Secret {target}", [found])


def _listed(cluster: Cluster, namespace: str, secret_id: str | None = None) -> Sequence[Bound] | None:
    """Return the bound Secrets of a namespace, or None if the caller may not list them."""
    try:
        return list(list_bound(cluster, namespace, secret_id))
    except Forbidden:
        return None


def _only(*namespaces: str) -> str:
    noun = "namespace" if len(namespaces) == 1 else "namespaces"
    return f"you may list Secrets in {noun} {' and '.join(namespaces)} alone"


def _not_found(cluster: Cluster, text: str, otherwise: str, may_list: Sequence[str] = ()) -> NotFound:
    return NotFound(
        f"{cluster.context}: no Secret is bound to the AWS secret {printable(text)}"
        + (f" ({_only(*may_list)})" if may_list else ""),
        f"bind one with the label {BIND_LABEL} (docs/bindings.md), or {otherwise}",
    )
