"""AWS roles of tenants: ServiceAccounts that name a role, and a record of the credentials that STS issues."""

import base64
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from support.fault_env import FaultEnv
from support.fault_proxy import Call, Edit, Fault, Reply

ACCOUNT = "123456789012"


def account(namespace: str, name: str, role: str | None) -> dict[str, Any]:
    """Return a ServiceAccount that names an AWS role in its annotation, or has no such annotation if ``role`` is
    None."""
    annotations = {} if role is None else {"eks.amazonaws.com/role-arn": role}
    metadata = {"namespace": namespace, "name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def role(name: str) -> str:
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


class Sts:
    """A fault that records the credentials that STS issues, and refuses roles whose names begin with `broken`."""

    def __init__(self, env: FaultEnv) -> None:
        self.given: dict[str, str] = {}  # maps each access key to its role
        self.tokens: dict[str, Mapping[str, Any]] = {}  # maps each role to the claims of its web identity token
        env.aws_proxy.fault_for = self

    def __call__(self, call: Call) -> Fault:
        if b"AssumeRoleWithWebIdentity" not in call.body:
            return None
        form = parse_qs(call.body.decode())
        (taken,), (token,) = form["RoleArn"], form["WebIdentityToken"]
        payload = token.split(".")[1]
        self.tokens[taken] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if "/broken" in taken:
            body = b"<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>"
            return Reply(403, body, {"Content-Type": "text/xml"})

        def note(answer: bytes) -> bytes:
            found = re.search(rb"<AccessKeyId>(\w+)<", answer)
            assert found
            self.given[found[1].decode()] = taken
            return answer

        return Edit(note)

    def readers(self, env: FaultEnv, about: str) -> set[str]:
        """Return the roles whose credentials were used to ask AWS about a secret. An access key that STS did not issue
        is returned as it is."""
        keys = (
            call.headers["authorization"].partition("Credential=")[2].partition("/")[0]
            for call in env.aws_proxy.calls
            if call.action and call.about(about)
        )
        return {self.given.get(key, key) for key in keys}
