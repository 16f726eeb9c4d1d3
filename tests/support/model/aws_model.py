"""A model of AWS. It changes secrets and records every version, so that the oracle can check the cluster."""

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from keyturn_local.aws import rotation
from support.model.oracle import Value, Version

ALIVE, SCHEDULED, GONE = "alive", "scheduled for deletion", "gone"
KINDS_OF_VALUE = ("new", "new but for the password", "poor", "no JSON", "the same")


class AwsModel:
    """Changes secrets in AWS and records each change.

    ``lifecycle`` maps the name of each secret to its state. ``order`` maps the id of each secret to the versions that
    have held AWSCURRENT, in order.
    """

    def __init__(self, client: Any, namespace: str, new_value: Callable[[str], str]) -> None:
        self.lifecycle: dict[str, str] = {}
        self.arns: dict[str, str] = {}
        self.versions: dict[str, Version] = {}
        self.order: dict[str, list[str]] = defaultdict(list)
        self._client = client
        self._namespace = namespace
        self._new_value = new_value

    def id_of(self, name: str) -> str:
        """Return the full name of the secret in AWS."""
        return f"{self._namespace}/{name}"

    def version_history(self, name: str) -> list[str]:
        """Return the versions that have held AWSCURRENT, in order. The last one holds it now."""
        return self.order[self.id_of(name)]

    def current(self, name: str) -> Version:
        """Return the version that holds AWSCURRENT."""
        return self.versions[self.version_history(name)[-1]]

    def previous(self, secret_id: str) -> Version:
        """Return the version that held AWSCURRENT before the present one. If there was none, return the first
        version."""
        name = next(name for name, arn in self.arns.items() if secret_id in (arn, self.id_of(name)))
        return self.versions[self.version_history(name)[-2:][0]]

    def create(self, name: str) -> None:
        """Create a secret. A secret that is created again after it was deleted for good gets a different ARN."""
        value = self._value("new", name)
        made = self._client.create_secret(Name=self.id_of(name), SecretString=text_of(value))
        self.arns[name], self.lifecycle[name] = made["ARN"], ALIVE
        self._record(name, made["VersionId"], value)

    def rotate(self, name: str, kind: str = "new") -> None:
        """Rotate a secret to a value of the given kind."""
        value = self._value(kind, name)
        self._record(name, rotation.rotate(self._client, self.id_of(name), text_of(value)), value)

    def roll_back(self, name: str, back: int) -> bool:
        """Move AWSCURRENT back by at most ``back`` versions. Return whether it has moved."""
        own = [each for each in self.version_history(name) if self.versions[each].arn == self.arns[name]]
        version_id = own[-1 - min(back, len(own) - 1)]
        if version_id == own[-1]:
            return False
        rotation.promote(self._client, self.id_of(name), version_id)
        self._record(name, version_id, self.versions[version_id].value)
        return True

    def schedule(self, name: str) -> None:
        """Schedule a secret for deletion."""
        self._client.delete_secret(SecretId=self.id_of(name), RecoveryWindowInDays=7)
        self.lifecycle[name] = SCHEDULED

    def restore(self, name: str) -> None:
        """Restore a secret that is scheduled for deletion."""
        self._client.restore_secret(SecretId=self.id_of(name))
        self.lifecycle[name] = ALIVE

    def destroy(self, name: str) -> None:
        """Delete a secret for good."""
        self._client.delete_secret(SecretId=self.id_of(name), ForceDeleteWithoutRecovery=True)
        self.lifecycle[name] = GONE

    def _record(self, name: str, version_id: str, value: Value) -> None:
        self.versions[version_id] = Version(self.id_of(name), self.arns[name], version_id, value)
        self.version_history(name).append(version_id)

    def _value(self, kind: str, name: str) -> Value:
        value: dict[str, Any] = {"user": self._new_value("u"), "password": self._new_value("p"), "port": 5432}
        last = self.current(name).value if self.version_history(name) else value
        if kind == "the same":
            return last
        if kind == "new but for the password" and not isinstance(last, str):
            return {**value, "password": last.get("password", "")}
        if kind == "poor":
            return {"user": value["user"]}
        return str(value["password"]) if kind == "no JSON" else value


def text_of(value: Any) -> str:
    """Return a value as the text that AWS stores. A string stays as it is, and any other value becomes JSON."""
    return value if isinstance(value, str) else json.dumps(value)
