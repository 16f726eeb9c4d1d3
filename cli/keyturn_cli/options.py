"""Options that several commands share, and the parsers of their texts."""

from dataclasses import dataclass
from typing import Annotated

import typer

from keyturn_cli.errors import UsageError
from keyturn_cli.output import Format
from keyturn_receiver.core.binding import Target
from keyturn_receiver.core.object_name import is_object_name

Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig. [default: the current one]")
]
Contexts = Annotated[
    list[str] | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig; repeat it for several clusters."),
]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace. [default: the context's]")
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces.")]
OutputFormat = Annotated[Format, typer.Option("--output", "-o", help="Form of the output.")]
ReleaseName = Annotated[
    str, typer.Option("--release", metavar="NS/NAME", help="Namespace and name of Keyturn's Helm release.")
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR. A pipe gets none anyway.")]
LogGroup = Annotated[str, typer.Option("--log-group", metavar="NAME", help="Log group of the receipts.")]
DEFAULT_RELEASE = "keyturn/keyturn"


@dataclass(frozen=True, slots=True)
class Release:
    """A Helm release of the chart. ``full_name`` is the name of the release's Deployment. It is known only in a
    receiver's pod, and is otherwise empty."""

    namespace: str
    name: str
    full_name: str = ""


def read_release(text: str) -> Release:
    """Parse the option ``--release``. Raises UsageError."""
    namespace, slash, name = text.partition("/")
    if not slash or not is_object_name(namespace) or not is_object_name(name):
        raise UsageError(f"--release {text} is not NAMESPACE/NAME", "write, for example, --release keyturn/keyturn")
    return Release(namespace, name)


def read_target(text: str, namespace: str) -> Target:
    """Parse the argument ``NS/NAME`` or ``NAME`` of a command. If only ``NAME`` is given, the namespace is
    ``namespace``. Raises UsageError."""
    parts = [namespace, text] if "/" not in text else text.split("/")
    if len(parts) != 2 or not all(map(is_object_name, parts)):
        raise UsageError(f"{text} is not the name of a Secret", "write NAMESPACE/NAME, or NAME and -n NAMESPACE")
    return Target(*parts)
