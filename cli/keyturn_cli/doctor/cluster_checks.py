"""Checks of the receivers in a cluster: versions, readiness and Leases. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from keyturn_cli.advice import ANY_STACK, NOTHING_CHOSEN, Chosen
from keyturn_cli.doctor.cluster_facts import ClusterFacts, Configuration, Installation, LeaseState
from keyturn_cli.doctor.finding import Finding, Unknown, error, length, ok, skipped, some, warning

OLDEST_KUBERNETES = (1, 29)  # kubeVersion in charts/keyturn/Chart.yaml
# The poller is reported as an error if its Lease has not been renewed for longer than this. The leader renews the Lease
# every 2 s. If it does not, another replica takes over the Lease after 15 s. The rest is a margin, because the clocks
# of the leader and of the API server may differ by some seconds.
POLLER_SILENCE = timedelta(seconds=30)


def check_cluster(
    facts: ClusterFacts, own_version: str, with_aws: bool = False, chosen: Chosen = NOTHING_CHOSEN
) -> Iterator[Finding]:
    """Check the versions, the receivers and the Leases. ``own_version`` is the release of this program. ``with_aws`` is
    true if the report also has the checks of the stack. ``chosen`` are the options of the command."""
    yield kubernetes_version(facts.kubernetes)
    if isinstance(facts.installation, Unknown):
        yield skipped("receivers", facts.installation)
    else:
        yield readiness(facts.installation)
        yield from versions(facts.installation, own_version)
    yield poller(_lease(facts.poller, facts.installation), facts.now)
    more = "" if with_aws else f"run {chosen.command('doctor', '--aws', or_stack=ANY_STACK)}, and "
    yield event_path(_lease(facts.event_path, facts.installation), facts.configuration, facts.now, more)


def _lease(lease: LeaseState | Unknown, installation: Installation | Unknown) -> LeaseState | Unknown:
    """Return the state of a Lease. If the release was not found, and the Lease does not exist or was never renewed, the
    state is unknown, because the release may be in another namespace."""
    has_no_time = isinstance(lease, LeaseState) and lease.renewed is None
    if isinstance(installation, Unknown) and installation.is_fault and has_no_time:
        return replace(installation, is_fault=False)
    return lease


def kubernetes_version(version: tuple[int, int] | Unknown) -> Finding:
    """Check that the chart supports the cluster's version."""
    if isinstance(version, Unknown):
        return skipped("Kubernetes", version)
    text, oldest = (".".join(map(str, each)) for each in (version, OLDEST_KUBERNETES))
    if version < OLDEST_KUBERNETES:
        return error(f"Kubernetes {text} < {oldest}", f"upgrade the cluster: Keyturn is made for {oldest} and newer")
    return ok(f"Kubernetes {text} >= {oldest}")


def readiness(installation: Installation) -> Finding:
    """Check that as many receivers are ready as the Deployment asks for."""
    ready = [pod for pod in installation.pods if pod.ready]
    text = f"{len(ready)}/{installation.replicas} receivers ready"
    if installation.replicas == 0:
        return error("the Deployment asks for no receiver", "set the chart's value replicas to 2 or more")
    if len(ready) >= installation.replicas:
        return ok(text)
    reasons = [f"{pod.name}: {pod.waits_for or 'not ready'}" for pod in installation.pods if not pod.ready]
    text += f" ({some(reasons)})" if reasons else ""
    remedy = "see docs/runbook.md#keyturndown"
    return warning(text, remedy) if ready else error(text, remedy)


def versions(installation: Installation, own_version: str) -> Iterator[Finding]:
    """Check that the receivers have the same version as this program."""
    releases = {pod.version for pod in installation.pods if pod.version}
    if not releases:
        return
    if releases == {own_version}:
        yield ok(f"receivers {own_version} = CLI")
    elif len(releases) > 1:
        yield warning(f"receivers of several releases: {some(releases)}", "wait until the upgrade has ended")
    else:
        (release,) = releases
        yield warning(f"receivers {release}, CLI {own_version}", f"use the CLI of release {release}")


def poller(lease: LeaseState | Unknown, now: datetime) -> Finding:
    """Check that a replica holds the poller's Lease, and that it renews the Lease."""
    if isinstance(lease, Unknown):
        return skipped("poller", lease)
    remedy = "see docs/runbook.md#keyturnnopoller"
    if lease.renewed is None or not lease.holder:
        return error(f"poller: no replica holds the Lease {lease.name}", remedy)
    age = max(now - lease.renewed, timedelta())
    if age > POLLER_SILENCE:
        return error(f"poller: {lease.holder} has not renewed the Lease {lease.name} for {length(age)}", remedy)
    return ok(f"poller: {lease.holder}, renewed {length(age)} ago")


def event_path(
    lease: LeaseState | Unknown, configuration: Configuration | Unknown, now: datetime, more: str = ""
) -> Finding:
    """Check that heartbeats arrive. ``more`` is the beginning of the remedy."""
    known = configuration if isinstance(configuration, Configuration) else Configuration()
    if not known.takes_deliveries:
        return ok("event path: off (deliveries.enabled: false), the poller carries changes")
    if not known.silence:
        return ok("event path: no heartbeats expected (heartbeats.silenceSeconds: 0)")
    if isinstance(lease, Unknown):
        return skipped("event path", lease)
    age = None if lease.renewed is None else max(now - lease.renewed, timedelta())
    if isinstance(configuration, Unknown) and (age is None or age.total_seconds() > known.silence):
        return skipped("event path", configuration)  # the settings may say that no heartbeat comes
    remedy = f"{more}see docs/runbook.md#keyturneventpathdown"
    if age is None:
        return error(f"event path: no heartbeat has ever arrived (Lease {lease.name})", remedy)
    if age.total_seconds() > known.silence:
        return error(f"event path: silent for {length(age)} (Lease {lease.name})", remedy)
    return ok(f"event path: heartbeat {length(age)} ago (one comes each minute)")
