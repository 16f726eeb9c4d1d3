"""`keyturn reconcile`: asks the receivers to look at a Secret now."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from keyturn_cli.advice import advised
from keyturn_cli.bound_secrets import not_bound
from keyturn_cli.cluster import MERGE_PATCH, METADATA, Cluster, path
from keyturn_cli.completion import complete_secrets
from keyturn_cli.errors import reported
from keyturn_cli.options import Context, Namespace, NoColor, OutputFormat, read_target
from keyturn_cli.output import Format, Output
from keyturn_receiver.core.binding import RECONCILE
from keyturn_receiver.core.json_access import as_object
from keyturn_receiver.core.vocabulary import BIND_LABEL

TARGET = Annotated[str, typer.Argument(metavar="NS/NAME", help="The Secret.", autocompletion=complete_secrets)]


@reported
def reconcile(
    secret: TARGET,
    context: Context = None,
    namespace: Namespace = None,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> None:
    """Ask the receivers to look at a Secret now.

    They compare its value in AWS, its keys, and its workloads. The command writes the annotation
    keyturn.dev/reconcile, which takes the right to patch the Secret.
    """
    out = Output(output, no_color)
    cluster = Cluster.connect(context)
    target = read_target(secret, namespace or cluster.namespace)
    resource = path("v1", "secrets", target.namespace, target.name)
    labels = as_object(as_object(cluster.get(resource, accept=METADATA).get("metadata")).get("labels"))
    if labels.get(BIND_LABEL) != "true":
        raise not_bound(target)
    token = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    cluster.send("PATCH", resource, {"metadata": {"annotations": {RECONCILE: token}}}, MERGE_PATCH, METADATA)
    if out.is_data:
        out.data({"namespace": target.namespace, "name": target.name, "token": token})
    else:
        out.line(f"Secret {target} will be looked at now; see what came of it: {advised('status', target)}")
