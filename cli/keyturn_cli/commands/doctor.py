"""`keyturn doctor`: finds faults, and names a remedy for each."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from keyturn_cli.advice import chosen
from keyturn_cli.aws import Aws, AwsError, Stack
from keyturn_cli.cluster import Cluster
from keyturn_cli.doctor import report
from keyturn_cli.doctor.aws_facts import AwsFacts
from keyturn_cli.doctor.aws_reader import AwsReader, read_identity
from keyturn_cli.doctor.cluster_facts import ClusterFacts, Configuration
from keyturn_cli.doctor.cluster_reader import ClusterReader
from keyturn_cli.doctor.examination import Facts, count, examine
from keyturn_cli.doctor.finding import Level, Section, Unknown
from keyturn_cli.doctor.heartbeat import send_heartbeat
from keyturn_cli.doctor.url_reader import read_url_facts
from keyturn_cli.errors import ExitCode, UsageError, reported
from keyturn_cli.http_post import now, read_url
from keyturn_cli.options import DEFAULT_RELEASE, Context, NoColor, OutputFormat, Release, ReleaseName, read_release
from keyturn_cli.output import Format, Output
from keyturn_receiver import __version__

StackName = Annotated[str, typer.Option("--stack", metavar="NAME", help="Name of Keyturn's stack in AWS.")]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", metavar="FILE", help="CA of the receivers' certificate (PEM), if private.")
]
SIGNING_KEY = "KEYTURN_SIGNING_KEY_SECRET_ID"


@reported
def doctor(
    aws: Annotated[bool, typer.Option("--aws", help="Check the stack in AWS, too.")] = False,
    send: Annotated[bool, typer.Option("--send", help="Send a heartbeat over the whole event path.")] = False,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Check the receivers' public URL, as in ReceiverUrls.")
    ] = None,
    ca_file: CaFile = None,
    stack: StackName = "keyturn",
    context: Context = None,
    release: ReleaseName = DEFAULT_RELEASE,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Find what is broken, and say what to do.

    Each line is a finding: ✔ fine, ! a warning, ✗ an error, - not checked. The exit code is 1 if there is an error. The
    checks have the rights of the caller; in a receiver's pod, those of the receiver.
    """
    out = Output(output, no_color)
    if ca_file and not url:
        raise UsageError("--ca-file needs --url", "name the URL whose certificate it is for")
    public_url = read_url(url) if url else None
    cluster = Cluster.connect(context)
    in_pod = cluster.in_pod
    named = own_release() if in_pod and release == DEFAULT_RELEASE else read_release(release)
    reader = ClusterReader(cluster, named, dict(os.environ) if in_pod else None)
    facts = reader.read()
    client = Aws()
    read_at = time.time()
    skews = {f"{'pod' if in_pod else 'this machine'} - Kubernetes API": read_at - facts.now.timestamp() - 0.5}
    found, read_stack = _read_aws(client, stack, facts) if aws or send else (None, None)
    if read_stack:
        skews[f"{'pod' if in_pod else 'this machine'} - AWS"] = read_stack.skew
    sections = list(
        examine(
            Facts(
                facts,
                read_identity(client, os.environ.get(SIGNING_KEY, "")) if in_pod else None,
                found if aws or isinstance(found, Unknown) else None,
                read_url_facts(public_url, ca_file, now()) if public_url else None,
                skews,
                chosen(),
            ),
            __version__,
        )
    )
    if send and read_stack:
        if not out.is_data:
            out.note("waiting for a heartbeat, up to a minute ...")
        heartbeat = send_heartbeat(client, read_stack, lambda: reader.lease("event-path"))
        sections.append(Section("heartbeat", (heartbeat,)))
    report.write(out, sections)
    return ExitCode.FINDING if count(sections, Level.ERROR) else ExitCode.FINE


def own_release() -> Release:
    """Return the Helm release of the pod in which this process runs. The pod's settings give its namespace and its full
    name."""
    default = read_release(DEFAULT_RELEASE)
    namespace = os.environ.get("KEYTURN_LEASE_NAMESPACE", default.namespace)
    return Release(namespace, default.name, os.environ.get("KEYTURN_LEASE_NAME", default.name))


def _read_aws(client: Aws, name: str, cluster: ClusterFacts) -> tuple[AwsFacts | Unknown, Stack | None]:
    try:
        stack = client.stack(name)
    except AwsError as error:
        return Unknown(f"{error.call}: {error.code}", error.advice), None
    used_key = None
    if isinstance(cluster.configuration, Configuration):
        used_key = cluster.configuration.settings.get(SIGNING_KEY) or None
    return AwsReader(client, stack).read(used_key), stack
