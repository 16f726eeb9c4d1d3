"""Commands of the command line that a message advises. An advised command has the target of the command that runs: its
cluster, namespace, release, stack and log group. So it can be pasted as it is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import signature
from shlex import quote

from keyturn_receiver.core.binding import Target

# The options that choose a target, by the names of the parameters of the commands' functions.
_OPTIONS = {
    "namespace": "-n",
    "context": "--context",
    "release": "--release",
    "stack": "--stack",
    "log_group": "--log-group",
}
ANY_STACK = "NAME"  # in place of the name of a stack that nobody knows
_OF_AWS = ("stack", "log_group")
_PARAMETERS: dict[str, Mapping[str, object]] = {}  # for each command, its parameters and their defaults


@dataclass(frozen=True, slots=True)
class Chosen:
    """The options with which the caller of a command has chosen its target. ``values`` maps the name of a parameter to
    its values. An option that has its default value is left out. ``takes_namespace`` is true if the command has the
    option ``-n``."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    takes_namespace: bool = True

    def command(self, name: str, *words: str | Target, context: str = "", or_stack: str = "") -> str:
        """Return the command ``name`` with its arguments ``words``, and with those chosen options that it has.

        If the caller has chosen several contexts, ``context`` is the one that the message is about. ``or_stack`` is the
        stack if the caller has chosen none.
        """
        values = dict(self.values)
        if context and "context" in values:
            values["context"] = (context,)
        if or_stack:
            values.setdefault("stack", (or_stack,))
        if "-A" in words or any(isinstance(each, Target) for each in words):
            values.pop("namespace", None)  # the words name it
        if "--aws" not in words and name != "redeliver":
            values = {option: given for option, given in values.items() if option not in _OF_AWS}
        known = _PARAMETERS.get(name, {})
        options = [
            f"{option} {quote(value)}"
            for parameter, option in _OPTIONS.items()
            if parameter in known or (parameter == "stack" and or_stack)
            for value in values.get(parameter, ())
        ]
        return " ".join(["keyturn", name, *(quote(str(each)) for each in words), *options])

    def kubectl(self, arguments: str) -> str:
        """Return a command of kubectl for the same cluster. If the caller has chosen several contexts, it is for
        kubectl's own."""
        contexts = self.values.get("context", ())
        return f"kubectl {f'--context {quote(contexts[0])} ' if len(contexts) == 1 else ''}{arguments}"


NOTHING_CHOSEN = Chosen()
_CHOSEN: ContextVar[Chosen] = ContextVar("chosen", default=NOTHING_CHOSEN)


def chosen() -> Chosen:
    """Return the options of the command that runs."""
    return _CHOSEN.get()


def advised(name: str, *words: str | Target, context: str = "") -> str:
    """Return a command for the target of the command that runs (``Chosen.command``)."""
    return chosen().command(name, *words, context=context)


def not_looked_at() -> str:
    """Return what is said of a Secret that no receiver has handled, with the next step."""
    return (
        f"no receiver has looked at it yet: wait a minute; then run {advised('doctor')}, or ask those who run Keyturn"
        " for the receivers' log"
    )


def register(command: Callable[..., object]) -> None:
    """Let a command be advised."""
    _PARAMETERS[command.__name__] = {name: each.default for name, each in signature(command).parameters.items()}


@contextmanager
def running(command: Callable[..., object], arguments: Mapping[str, object]) -> Iterator[None]:
    """Context manager for the time in which a command runs with these arguments."""
    defaults, values = _PARAMETERS[command.__name__], {}
    for name in _OPTIONS:
        value = arguments.get(name)
        if value and value != defaults.get(name):
            values[name] = tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
    token = _CHOSEN.set(Chosen(values, "namespace" in defaults))
    try:
        yield
    finally:
        _CHOSEN.reset(token)
