"""Checks of clocks and of AWS identities. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyturn_cli.doctor.finding import Finding, Unknown, error, ok, skipped, warning
from keyturn_contract.signature import TOLERANCE

NOTABLE = 30.0  # seconds; a larger difference is a warning, because clocks that NTP sets differ by less than one second


@dataclass(frozen=True, slots=True)
class Identity:
    """The AWS identity of this process, and its rights. ``reads`` maps each call to the reason why it failed, or to an
    empty text if it succeeded."""

    arn: str
    region: str
    reads: Mapping[str, str]


def check_clocks(skews: Mapping[str, float]) -> Iterator[Finding]:
    """Check that clocks agree. ``skews`` maps the names of two clocks to their difference in seconds. The difference
    may be wrong by a second, because the Date header has whole seconds."""
    for clocks, seconds in skews.items():
        text = f"{clocks} {round(seconds):+d} s"
        if abs(seconds) > TOLERANCE:
            yield error(
                f"{text}, tolerance {TOLERANCE:g} s", "set the clock by NTP: signatures and AWS calls are refused"
            )
        elif abs(seconds) > NOTABLE:
            yield warning(f"{text}, tolerance {TOLERANCE:g} s", "set the clock by NTP")
        else:
            yield ok(f"{text}, tolerance {TOLERANCE:g} s")


def check_identity(identity: Identity | Unknown) -> Iterator[Finding]:
    """Check the pod's AWS identity, region and rights to read."""
    if isinstance(identity, Unknown):
        yield error(f"AWS identity: {identity.why}", identity.remedy)
        return
    yield ok(identity.arn)
    if identity.region:
        yield ok(f"region {identity.region}")
    else:
        yield error("the region is not known", "set the chart's value aws.region")
    for call, why in identity.reads.items():
        yield error(f"{call}: {why}", "see docs/aws-access.md for the receiver's role") if why else ok(call)


def unchecked(subjects: Sequence[str], unknown: Unknown) -> tuple[Finding, ...]:
    """Return a finding for each subject. The finding says that the subject was not checked."""
    return tuple(skipped(each, unknown) for each in subjects)
