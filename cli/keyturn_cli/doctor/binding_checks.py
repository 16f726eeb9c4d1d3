"""Checks of the bound Secrets and their namespaces. Pure."""

from collections.abc import Iterator

from keyturn_cli.advice import NOTHING_CHOSEN, Chosen
from keyturn_cli.doctor.cluster_facts import Bindings, BoundSecret, Configuration
from keyturn_cli.doctor.finding import Finding, Unknown, error, ok, skipped, some, warning
from keyturn_cli.words import counted
from keyturn_receiver.core.policy import ALLOW_SECRETS, Default
from keyturn_receiver.core.revision import OK, state_of
from keyturn_receiver.core.vocabulary import BIND_LABEL, is_bind_value
from keyturn_receiver.errors import NotAllowed


def check_bindings(bindings: Bindings | Unknown, chosen: Chosen = NOTHING_CHOSEN) -> Iterator[Finding]:
    """Check the status of the bound Secrets, the value of their label, and that nobody else writes their keys.
    ``chosen`` are the options of the command."""
    if isinstance(bindings, Unknown):
        yield skipped("bindings", bindings)
        return
    bound = [each for each in bindings.secrets if each.label == "true"]
    misspelt = [each for each in bindings.secrets if each.label != "true" and is_bind_value(each.label)]
    yield from _failing(bound, _refused_namespaces(bindings), chosen)
    if misspelt:
        yield warning(
            f"{counted(len(misspelt), 'Secret')} with a wrong label {BIND_LABEL} ({some(map(str, misspelt))})",
            'set the label to "true"',
        )
    shared = {str(each): owner for each in bound if (owner := _other_owner(each))}
    if shared:
        owners = some(set(shared.values()))
        yield warning(
            f"{counted(len(shared), 'Secret')} with keys that others write, too ({some(shared)}): {owners}",
            "take the keys out of the manifest of that writer, which sets them back",
        )


def check_namespaces(
    bindings: Bindings | Unknown, configuration: Configuration | Unknown, chosen: Chosen = NOTHING_CHOSEN
) -> Iterator[Finding]:
    """Check that the namespaces of bound Secrets may read secrets. ``chosen`` are the options of the command."""
    if isinstance(bindings, Unknown):
        return  # ``check_bindings`` has already reported the reason
    if isinstance(bindings.allowed, Unknown):
        yield skipped("namespaces", bindings.allowed)
        return
    if not isinstance(configuration, Configuration) or configuration.policy is Default.ALLOW:
        return
    if refused := [name for name, globs in bindings.allowed.items() if globs is None]:
        yield warning(
            f"{counted(len(refused), 'namespace')} with bindings and without {ALLOW_SECRETS} ({some(refused)})",
            chosen.kubectl(f"annotate namespace NAME '{ALLOW_SECRETS}=PREFIX/*'"),
        )
    elif bindings.allowed:
        yield ok(f"{counted(len(bindings.allowed), 'namespace')} with bindings, each may read secrets")


def _failing(bound: list[BoundSecret], refused: frozenset[str], chosen: Chosen) -> Iterator[Finding]:
    unfilled = [each for each in bound if not each.status]
    failing = [
        each
        for each in bound
        if each.status
        and each.status != OK
        # ``check_namespaces`` reports this fault once for each namespace, with one remedy for all Secrets of the
        # namespace.
        and not (each.namespace in refused and state_of(each.status) == NotAllowed.reason)
    ]
    if failing:
        yield error(
            f"{len(failing)} of {counted(len(bound), 'binding')} {'fails' if len(failing) == 1 else 'fail'}"
            f" ({some(f'{each}: {state_of(each.status)}' for each in failing)})",
            chosen.command("status", "-A", "--failing"),
        )
    if unfilled:
        yield warning(
            f"{counted(len(unfilled), 'Secret')} that no receiver has looked at ({some(map(str, unfilled))})",
            "wait a minute; then see the receivers' log",
        )
    if not failing and not unfilled:
        yield ok(f"{counted(len(bound), 'binding')}, none fails" if bound else "no bindings yet")


def _refused_namespaces(bindings: Bindings) -> frozenset[str]:
    if isinstance(bindings.allowed, Unknown):
        return frozenset()
    return frozenset(name for name, globs in bindings.allowed.items() if globs is None)


def _other_owner(secret: BoundSecret) -> str:
    """Return another field manager that owns one of Keyturn's keys, and this key, such as "kubectl-edit (password)".
    Return an empty text if no other field manager owns one."""
    return next((f"{min(owners)} ({key})" for key, owners in sorted(secret.owners.items()) if owners), "")
