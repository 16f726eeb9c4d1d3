"""Checks of the URL at which the notifier reaches a receiver. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from keyturn_cli.doctor.finding import Finding, Unknown, error, length, ok, warning

SOON = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class UrlFacts:
    """Facts about a receiver's URL.

    ``expires`` is the time at which the certificate expires. If the TLS connection fails, it is ``Unknown`` with the
    fault. ``status`` is the HTTP status of the reply to an unsigned POST. ``by_receiver`` is true if a receiver sent
    this reply.
    """

    url: str
    now: datetime
    expires: datetime | Unknown
    status: int | Unknown = 0
    by_receiver: bool = False


def check_url(facts: UrlFacts) -> Iterator[Finding]:
    """Check that the URL's certificate is valid, and that the receiver refuses an unsigned delivery."""
    if isinstance(facts.expires, Unknown):
        yield error(f"{facts.url}: {facts.expires.why}", facts.expires.remedy)
        return
    left = facts.expires - facts.now
    if left < timedelta():
        yield error("the certificate has expired", "renew it: the notifier refuses it")
    elif left < SOON:
        yield warning(f"certificate matches, {length(left)} left", "renew it, and see why it was not renewed by itself")
    else:
        yield ok(f"certificate matches, {length(left)} left")
    yield unsigned_post(facts.status, facts.by_receiver)


def unsigned_post(status: int | Unknown, by_receiver: bool) -> Finding:
    """Check the reply to an unsigned POST."""
    if isinstance(status, Unknown):
        return error(f"unsigned POST: {status.why}", status.remedy)
    text = f"unsigned POST answered {status}"
    if status == 401 and by_receiver:
        return ok(text)
    if status == 200:
        return error(f"{text}: it is accepted without a signature", "that is no receiver: check the URL")
    if not by_receiver:
        return error(
            f"{text} by something in front of the receiver",
            "see docs/aws.md#answers-of-a-receiver: a load balancer, proxy or firewall answers in its place",
        )
    if status == 503:
        return error(text, "no receiver is ready: see docs/runbook.md#keyturndown")
    return error(text, "the URL must end in /v1/notifications")
