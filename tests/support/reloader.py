"""Stakater's Reloader: the rows of its table in docs/rollouts.md, each with cases.

Each case gives the annotations of the workload, of its pod template and of the Secret. A workload reads the Secret
``db`` by a reference unless ``reads`` is false.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyturn_receiver.core.rollout_switch import DISABLED, ENABLED, ROLLOUT

DOMAIN = "reloader.stakater.com"
AUTO = {f"{DOMAIN}/auto": "true"}
NO_AUTO = {f"{DOMAIN}/auto": "false"}
SECRET_AUTO = {f"secret.{DOMAIN}/auto": "true"}
SEARCH = {f"{DOMAIN}/search": "true"}
MATCH = {f"{DOMAIN}/match": "true"}
IGNORE = {f"{DOMAIN}/ignore": "true"}


def listed(names: str) -> dict[str, str]:
    return {f"secret.{DOMAIN}/reload": names}


def excluded(names: str) -> dict[str, str]:
    return {f"secrets.exclude.{DOMAIN}/reload": names}


def rollout(text: str) -> dict[str, str]:
    return {ROLLOUT: text}


@dataclass(frozen=True)
class Case:
    """Whether Keyturn restarts the workload: ``replaced`` is for the case that Keyturn has replaced Reloader, and
    ``running`` for the case that Reloader runs beside Keyturn.

    None means that Keyturn's own switch decides: the Secret's annotation, or else the chart's default.
    """

    replaced: bool | None
    running: bool | None
    workload: Mapping[str, str] = field(default_factory=dict)
    template: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str] = field(default_factory=dict)
    reads: bool = True
    told: str = ""  # a part of the Warning


ROWS: Mapping[str, tuple[Case, ...]] = {
    "R1": (
        Case(False, None, secret=IGNORE),
        Case(False, None, AUTO, secret=IGNORE),
        Case(False, None, listed("db"), secret=IGNORE),
        Case(None, None, secret={f"{DOMAIN}/ignore": "false"}),
        Case(False, None, secret={f"{DOMAIN}/ignore": "True"}),
    ),
    "R2": (
        Case(False, None, excluded("db")),
        Case(False, None, {**AUTO, **excluded("cache, db")}),
        Case(False, None, {**listed("db"), **excluded("db")}),
        Case(True, False, {**AUTO, **excluded("cache")}),
    ),
    "R3": (
        Case(True, False, listed("db")),
        Case(True, False, listed("cache, db")),
        Case(True, None, listed("db"), reads=False),
        Case(False, None, listed("cache")),
        Case(False, None, listed("d")),
    ),
    "R4": (
        Case(True, False, listed("cache,d.*")),
        Case(True, False, listed(".*")),
        Case(True, False, listed("d.*b")),
        Case(False, None, listed("d.*-x")),
    ),
    "R5": (
        Case(True, False, SEARCH, secret=MATCH),
        Case(False, None, SEARCH),
        Case(None, None, secret=MATCH),
        Case(False, None, SEARCH, secret={f"{DOMAIN}/match": "false"}),
    ),
    "R6": (
        Case(True, False, AUTO),
        Case(True, False, {f"{DOMAIN}/auto": "1"}),
        Case(True, False, {**AUTO, **listed("cache")}),
    ),
    "R7": (Case(True, False, SECRET_AUTO), Case(True, False, {**NO_AUTO, **SECRET_AUTO})),
    "R8": (
        Case(False, None, NO_AUTO),
        Case(False, None, {f"secret.{DOMAIN}/auto": "false"}),
        Case(True, False, {**NO_AUTO, **listed("db")}),
        Case(True, False, {**NO_AUTO, **SEARCH}, secret=MATCH),
    ),
    "R9": (
        Case(True, False, template=AUTO),
        Case(True, False, template=listed("db")),
        Case(False, None, NO_AUTO, AUTO),
        Case(False, None, listed("cache"), AUTO),
        Case(True, False, {f"configmap.{DOMAIN}/auto": "true"}, AUTO),
        Case(None, None, template=excluded("db")),
    ),
    "R10": (
        Case(None, None, {f"configmap.{DOMAIN}/auto": "true"}),
        Case(None, None, {f"configmap.{DOMAIN}/reload": "db"}),
        Case(None, None, {f"secretproviderclass.{DOMAIN}/auto": "true"}),
        Case(None, None, {f"configmaps.exclude.{DOMAIN}/reload": "db"}),
    ),
    "R11": (Case(None, None),),
    "R12": (
        Case(False, False, {f"{DOMAIN}/auto": "yes"}, told=f'annotation {DOMAIN}/auto is "yes": write true or false'),
        Case(False, False, {f"{DOMAIN}/search": "True"}, told=f'{DOMAIN}/search is "True": write true or false'),
        Case(False, False, {f"secret.{DOMAIN}/auto": ""}, told=f'secret.{DOMAIN}/auto is "": write true or false'),
        Case(False, False, listed("cache|db"), told=f'secret.{DOMAIN}/reload: "cache|db" is not understood'),
        Case(False, False, listed("(a+)+"), told='"(a+)+" is not understood: write names of Secrets'),
        Case(False, False, {**AUTO, **excluded("c.*")}, told='"c.*" is not understood'),
        Case(False, False, {**AUTO, **excluded(" , ")}, told="names no Secret, or is too long"),
        Case(False, False, listed(""), told="names no Secret, or is too long"),
    ),
    "R13": (
        Case(False, False, {**AUTO, **rollout(DISABLED)}),
        Case(False, False, AUTO, rollout(DISABLED)),
        Case(True, True, {**NO_AUTO, **rollout(ENABLED)}),
        Case(True, True, {**excluded("db"), **rollout(ENABLED)}),
        Case(True, True, rollout(ENABLED), secret=IGNORE),
        Case(True, False, {**AUTO, **rollout(ENABLED)}),
        Case(True, False, AUTO, secret=rollout(DISABLED)),
        Case(False, None, NO_AUTO, secret=rollout(ENABLED)),
    ),
}
