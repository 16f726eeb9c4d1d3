"""`keyturn send`: sends one notification by hand."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult

import typer

from keyturn_cli.advice import advised
from keyturn_cli.aws import Aws
from keyturn_cli.cluster import Cluster
from keyturn_cli.commands.doctor import SIGNING_KEY, CaFile, StackName
from keyturn_cli.commands.rotate import SecretId
from keyturn_cli.doctor.cluster_reader import configuration_of, is_ready, proxied, receiver_pods
from keyturn_cli.errors import CliError, ExitCode, UsageError, reported
from keyturn_cli.http_post import post, read_url
from keyturn_cli.options import DEFAULT_RELEASE, Context, NoColor, OutputFormat, Release, ReleaseName, read_release
from keyturn_cli.output import Format, Output
from keyturn_cli.release import find_deployment
from keyturn_cli.signed_delivery import Post, deliver, describe, notification_of, put_in_queue, signing_key
from keyturn_contract.message import RECEIVER_HEADER, Outcome, Result
from keyturn_receiver.core.json_access import as_object

PORT = "notifications"  # the name of the container's port in the chart
FINE = (Outcome.APPLIED, Outcome.UNCHANGED, Outcome.SUPERSEDED)


@reported
def send(
    secret_id: SecretId,
    queue: Annotated[
        bool,
        typer.Option("--queue", help="Put the event into the stack's queue. The notifier then delivers it as usual."),
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Receiver's URL. [default: a pod, by the API server]")
    ] = None,
    ca_file: CaFile = None,
    stack: StackName = "keyturn",
    context: Context = None,
    release: ReleaseName = DEFAULT_RELEASE,
    output: OutputFormat = Format.TABLE,
    no_color: NoColor = False,
) -> ExitCode:
    """Send one notification by hand, and show the receiver's answer.

    It says that a secret may have changed. A Secret that is up to date stays as it is. It takes DescribeSecret,
    GetSecretValue of the signing key, and pods/proxy or --url. With --queue, it takes sqs:SendMessage instead of these
    two.
    """
    out = Output(output, no_color)
    if queue and url:
        raise UsageError("--queue and --url exclude each other", "with --queue, the notifier calls the receivers")
    if ca_file and not url:
        raise UsageError("--ca-file needs --url", "name the URL whose certificate it is for")
    target = read_url(url) if url else None
    aws = Aws()
    secret = describe(aws, secret_id)
    if queue:
        event_id = put_in_queue(aws, aws.stack(stack), secret)
        if out.is_data:
            out.data({"eventId": event_id, "secret": secret.name, "queued": True})
        else:
            follow = advised("trace", event_id)
            out.line(f"event {event_id} of {secret.name} is in the queue; see what came of it: {follow}")
        return ExitCode.FINE
    if target:
        key_id, send_to = aws.output(stack, "SigningKeySecretId"), _by_url(target, ca_file)
    else:
        chosen = read_release(release)
        key_id, send_to = _by_pod(Cluster.connect(context), chosen, aws, stack)
    # Without a URL, the key may be the one in the receivers' settings, and then nobody knows the stack's name.
    known_stack = stack if target else ""
    result = deliver(notification_of(secret, datetime.now(UTC)), signing_key(aws, key_id), send_to, known_stack)
    _show(out, secret.name, result)
    return ExitCode.FINE if result.outcome in FINE and result.reason is None else ExitCode.FINDING


def _by_url(url: SplitResult, ca_file: Path | None) -> Post:
    def send_to(body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        reply = post(url, body, headers, ca_file)
        return reply.status, reply.headers, reply.body

    return send_to


def _by_pod(cluster: Cluster, release: Release, aws: Aws, stack: str) -> tuple[str, Post]:
    """Return the id of the signing key, and a function that posts to a ready pod by the API server's proxy."""
    deployment = find_deployment(cluster, release)
    settings = configuration_of(deployment).settings
    pods = [pod for pod in receiver_pods(cluster, release.namespace, deployment) if is_ready(pod)]
    if not pods:
        raise CliError(f"no receiver of {release.namespace}/{release.name} is ready", f"run {advised('doctor')}")
    where = f"{proxied(pods[0], PORT, 'KEYTURN_TLS_CERTIFICATE_FILE' in settings)}/v1/notifications"
    name = as_object(pods[0].get("metadata")).get("name")

    def send_to(body: bytes, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        reply = cluster.exchange("POST", where, body, headers)
        if RECEIVER_HEADER.lower() not in reply.headers:
            advice = "ask for the right to create pods/proxy, or name the receivers' URL: --url"
            if reply.status != 403:
                advice = "name the receivers' URL: --url"
            raise CliError(f"the API server cannot reach pod {name} ({reply.status})", advice)
        return reply.status, reply.headers, reply.body

    return settings.get(SIGNING_KEY) or aws.output(stack, "SigningKeySecretId"), send_to


def _show(out: Output, name: str, result: Result) -> None:
    if out.is_data:
        fields: dict[str, Any] = {
            "eventId": result.id,
            "secret": name,
            "outcome": result.outcome.value,
            "secrets": list(result.secrets),
            "consumers": list(result.consumers),
            "retrying": list(result.retrying),
            "reason": result.reason,
        }
        out.data(fields)
        return
    out.line(f"{name}: {result.outcome.value}" + (f": {result.reason}" if result.reason else ""))
    for each in result.secrets:
        out.line(f"  Secret {each}")
    for each in result.consumers:
        out.line(f"  {each}")
    for each in result.retrying:
        out.line(f"  Secret {each} is tried again by the receiver")
