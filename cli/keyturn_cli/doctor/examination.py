"""The examination: all checks, in the order of the report. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from keyturn_cli.advice import Chosen
from keyturn_cli.doctor.aws_checks import check_keys, check_path
from keyturn_cli.doctor.aws_facts import AwsFacts
from keyturn_cli.doctor.binding_checks import check_bindings, check_namespaces
from keyturn_cli.doctor.clock_checks import Identity, check_clocks, check_identity
from keyturn_cli.doctor.cluster_checks import check_cluster
from keyturn_cli.doctor.cluster_facts import ClusterFacts
from keyturn_cli.doctor.finding import Finding, Level, Section, Unknown, error
from keyturn_cli.doctor.rights import check_rights
from keyturn_cli.doctor.url_checks import UrlFacts, check_url


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts for the checks. A part is None if the caller did not ask for it.

    ``identity`` is known only in a receiver's pod. ``aws`` is ``Unknown`` if the stack cannot be read. ``skews`` are
    the differences between clocks, in seconds. ``chosen`` are the options with which the caller has chosen what is
    checked.
    """

    cluster: ClusterFacts
    identity: Identity | Unknown | None = None
    aws: AwsFacts | Unknown | None = None
    url: UrlFacts | None = None
    skews: Mapping[str, float] = field(default_factory=dict)
    chosen: Chosen = field(default_factory=Chosen)


def examine(facts: Facts, own_version: str) -> Sequence[Section]:
    """Run all checks, and return the sections that have findings. ``own_version`` is the version of this program."""
    cluster = facts.cluster
    sections: dict[str, Iterator[Finding]] = {
        "cluster": check_cluster(cluster, own_version, facts.aws is not None, facts.chosen),
        "rights": _rights(cluster, facts.chosen),
        "identity": iter(()) if facts.identity is None else check_identity(facts.identity),
        "bindings": check_bindings(cluster.bindings, facts.chosen),
        "path": _path(facts.aws, facts.chosen),
        "keys": check_keys(facts.aws.signing_key, facts.aws.now) if isinstance(facts.aws, AwsFacts) else iter(()),
        "clocks": check_clocks(facts.skews),
        "receiver's URL": iter(()) if facts.url is None else check_url(facts.url),
    }
    found = (Section(name, tuple(findings)) for name, findings in sections.items())
    return [section for section in found if section.findings]


def count(sections: Sequence[Section], level: Level) -> int:
    """Return the number of findings with this level."""
    return sum(finding.level is level for section in sections for finding in section.findings)


def _rights(cluster: ClusterFacts, chosen: Chosen) -> Iterator[Finding]:
    yield check_rights(cluster.missing_rights)
    yield from check_namespaces(cluster.bindings, cluster.configuration, chosen)


def _path(facts: AwsFacts | Unknown | None, chosen: Chosen) -> Iterator[Finding]:
    if isinstance(facts, Unknown):
        yield error(facts.why, facts.remedy)
    elif facts is not None:
        yield from check_path(facts, chosen)
