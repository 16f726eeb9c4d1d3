"""Subject of a command: an AWS secret with the Secrets that are made from it, or one Secret.

`shop/db` may be the name of an AWS secret or of a Secret. If the option ``--namespace`` is not given, the AWS secret is
looked up first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from keyturn_cli.advice import advised
from keyturn_cli.bound_secrets import Bound, get_bound, list_bound, not_bound
from keyturn_cli.cluster import Cluster
from keyturn_cli.errors import Forbidden, NotFound, UsageError
from keyturn_cli.options import read_target
from keyturn_cli.watched_secrets import get_watched
from keyturn_receiver.core.arn import region
from keyturn_receiver.core.binding import is_secret_id
from keyturn_receiver.core.printable import printable
from keyturn_receiver.core.revision import split_version_key
from keyturn_receiver.core.vocabulary import BIND_LABEL


@dataclass(frozen=True, slots=True)
class Subject:
    """Subject of a command. ``secret_id`` is the name or ARN of the AWS secret, or None if the subject is one Secret.
    If the caller may not list all Secrets, ``note`` says which Secrets were listed."""

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


def find_subject(cluster: Cluster, text: str, namespace: str | None, with_watched: bool = False) -> Subject:
    """Return the subject with the name ``text``. If ``with_watched`` is true, it may also be a watched Secret.

    Raises UsageError, NotFound and CliError.
    """
    if not is_secret_id(text):
        raise UsageError(f"{text} is no name of a secret", "write the name or ARN of an AWS secret, or NAMESPACE/NAME")
    if namespace and (found := _secret(cluster, text, namespace, with_watched)):
        return found
    bound, note = _of_secret_id(cluster, text, namespace)
    if bound:
        return Subject(text, bound, text, note)
    if (
        not namespace
        and not text.startswith("arn:")
        and (found := _secret(cluster, text, cluster.namespace, with_watched))
    ):
        return found
    raise NotFound(
        f"no Secret is bound to the AWS secret {printable(text)}" + (f" ({note})" if note else ""),
        f"bind one with the label {BIND_LABEL} (docs/bindings.md), or see what is bound:"
        f" {advised('status', *([] if namespace else ['-A']), context=cluster.context)}",
    )


def _secret(cluster: Cluster, text: str, namespace: str, with_watched: bool) -> Subject | None:
    try:
        target = read_target(text, namespace)
        found = get_bound(cluster, target)
    except (UsageError, NotFound):
        return None
    if found is None:
        watched = get_watched(cluster, target)
        if watched is None or not with_watched:
            raise not_bound(target, watched is not None)
        found = watched
    return Subject(f"Secret {target}", [found])


def _of_secret_id(cluster: Cluster, secret_id: str, namespace: str | None) -> tuple[list[Bound], str]:
    if namespace:
        return list(list_bound(cluster, namespace, secret_id)), ""
    try:
        return list(list_bound(cluster, None, secret_id)), ""
    except Forbidden:
        note = f"you may list Secrets in namespace {cluster.namespace} alone"
        return list(list_bound(cluster, cluster.namespace, secret_id)), note
