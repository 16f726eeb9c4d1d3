"""Imitates AWS for two teams. It answers quickly where all is well. These names of regions, secrets and roles, which
the hostile tenant uses, get other answers or none:

- Every region except REGION hangs.
- A secret whose name contains ``/hot-`` is throttled. A batch with a name that contains ``!`` is refused as a whole.
- Another account's secret is never in a batch's answer, as AWS documents it, and has the value FOREIGN.
- A role whose name begins with ``hang`` hangs in STS, and one that begins with ``refuse`` is refused.

``python -m hostile.aws --port N`` runs it. Actions that begin with ``test.`` control it.
"""

import argparse
import base64
import hashlib
import json
import os
import secrets
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvloop

from keyturn_contract.signature import new_key
from keyturn_local.aws import sdk
from keyturn_local.aws.imitation import Reply, ask, assumed_role, serve
from keyturn_local.aws.sdk import ACCOUNT, REGION
from keyturn_local.paths import ROOT
from keyturn_local.processes.environment import IMPORT_ROOTS, clean_environment
from keyturn_local.processes.ports import free_ports
from keyturn_local.processes.program import Program, Stoppable, answers

SIGNING_KEY = "keyturn/signing-key"
FOREIGN = "of another account"
LATENCY = 0.01  # seconds until an answer
PAGE = 100
ROLE_LIFETIME = timedelta(minutes=5, seconds=40)  # the receiver renews credentials five minutes before they end
PYTHONPATH = os.pathsep.join((IMPORT_ROOTS, str(ROOT / "tests")))


class HostileAws(Stoppable):
    """The imitation, running as a process. Use it as a context manager, or call ``stop``."""

    def __init__(self, directory: Path) -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self.signing_key = new_key(secrets.token_bytes(32))
        environment = {**clean_environment(), "PYTHONPATH": PYTHONPATH, "SIGNING_KEY": self.signing_key}
        command = [sys.executable, "-m", "hostile.aws", "--port", str(port)]
        self._program = Program("hostile-aws", command, directory, environment)
        self._program.wait_for(answers(self.endpoint_url), 30)

    def stop(self) -> None:
        """Stop the process."""
        self._program.stop()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make AWS's SDKs call the imitation."""
        return sdk.environment(self.endpoint_url)

    def put(self, values: Mapping[str, str]) -> dict[str, str]:
        """Give each of the named secrets a new value. Return the ids of the new versions by name."""
        return dict(ask(self.endpoint_url, "test.Put", values))

    def put_binary(self, name: str, content: bytes) -> None:
        """Give one secret a binary value."""
        ask(self.endpoint_url, "test.PutBinary", {name: base64.b64encode(content).decode()})

    def calls(self) -> Counter[str]:
        """Return the number of calls by action, and by region as ``region <name>``."""
        return Counter(ask(self.endpoint_url, "test.Calls", {}))


def arn_of(name: str, account: str = ACCOUNT) -> str:
    """Return the complete ARN of a secret. Its suffix is derived from the name."""
    suffix = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"arn:aws:secretsmanager:{REGION}:{account}:secret:{name}-{suffix}"


class Refused(Exception):
    """AWS refuses the call. The text is the code of AWS's error."""


class Answers:
    """The secrets, and the answers to calls."""

    def __init__(self, signing_key: str) -> None:
        self.texts: dict[str, str] = {}
        self.binaries: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.changed: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.put(SIGNING_KEY, signing_key)

    def put(self, name: str, text: str = "", binary: str = "") -> str:
        self.texts[name], self.binaries[name] = text, binary
        self.versions[name], self.changed[name] = str(uuid.uuid4()), time.time()
        return self.versions[name]

    def answer(self, action: str, body: bytes, authorization: str) -> Reply | None:
        """Answer one request, or return None if there is no answer."""
        if action.startswith("test."):
            return Reply(json.dumps(self._control(action, json.loads(body))).encode())
        if not action:
            return self._sts(parse_qs(body.decode())) if body else Reply(b"", delay=LATENCY)
        name = action.partition(".")[2]
        scope = authorization.partition("Credential=")[2].split("/")
        region = scope[2] if len(scope) > 2 else ""
        self.calls[name] += 1
        self.calls[f"region {region}"] += 1
        if region != REGION:
            return None
        try:
            status, content = 200, getattr(self, f"do_{name}")(json.loads(body))
        except Refused as refused:
            status, content = 400, {"__type": str(refused), "message": "of the imitation"}
        return Reply(json.dumps(content).encode(), status=status, delay=LATENCY)

    def _control(self, action: str, body: Any) -> Any:
        match action:
            case "test.Put":
                return {name: self.put(name, text) for name, text in body.items()}
            case "test.PutBinary":
                return {name: self.put(name, binary=content) for name, content in body.items()}
            case _:
                return self.calls

    def _sts(self, form: Mapping[str, list[str]]) -> Reply | None:
        role = form.get("RoleArn", [""])[0].rpartition("/")[2]
        self.calls["AssumeRole"] += 1
        if role.startswith("hang"):
            return None
        if role.startswith("refuse"):
            error = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>"
            return Reply(error.encode(), "text/xml", 403, LATENCY)
        xml = assumed_role(role, "x", "x", datetime.now(UTC) + ROLE_LIFETIME)
        return Reply(xml.encode(), "text/xml", delay=LATENCY)

    def do_GetSecretValue(self, body: Any) -> Any:
        name, account = self._named(body["SecretId"])
        if account != ACCOUNT:
            version_id = hashlib.sha256(name.encode()).hexdigest()[:32]
            return {"ARN": arn_of(name, account), "Name": name, "VersionId": version_id, "SecretString": FOREIGN}
        return self._value(name)

    def do_BatchGetSecretValue(self, body: Any) -> Any:
        if any("!" in each for each in body["SecretIdList"]):
            raise Refused("InvalidParameterException")
        values, errors = [], []
        for each in body["SecretIdList"]:
            try:
                name, account = self._named(each)
                if account != ACCOUNT:
                    raise Refused("ResourceNotFoundException")
                values.append(self._value(name))
            except Refused as refused:
                errors.append({"SecretId": each, "ErrorCode": str(refused), "Message": "of the imitation"})
        return {"SecretValues": values, "Errors": errors}

    def do_DescribeSecret(self, body: Any) -> Any:
        name, account = self._named(body["SecretId"])
        if account != ACCOUNT:
            return {"ARN": arn_of(name, account), "Name": name, "VersionIdsToStages": {}}
        return {**self._entry(name), "VersionIdsToStages": {self.versions[name]: ["AWSCURRENT"]}}

    def do_ListSecrets(self, body: Any) -> Any:
        first = int(body.get("NextToken") or 0)
        listed = sorted(self.versions, key=lambda name: -self.changed[name])
        names = listed[first : first + min(PAGE, body.get("MaxResults", PAGE))]
        stages = {name: {"SecretVersionsToStages": {self.versions[name]: ["AWSCURRENT"]}} for name in names}
        more = {"NextToken": str(first + len(names))} if first + len(names) < len(listed) else {}
        return {"SecretList": [{**self._entry(name), **stages[name]} for name in names], **more}

    def _value(self, name: str) -> Any:
        value = {"SecretBinary": self.binaries[name]} if self.binaries[name] else {"SecretString": self.texts[name]}
        return {"ARN": arn_of(name), "Name": name, "VersionId": self.versions[name], **value}

    def _entry(self, name: str) -> Any:
        return {"ARN": arn_of(name), "Name": name, "LastChangedDate": self.changed[name]}

    def _named(self, secret_id: str) -> tuple[str, str]:
        """Return the name and the account of the secret that an id refers to."""
        if "/hot-" in secret_id:
            raise Refused("ThrottlingException")
        if "!" in secret_id:
            raise Refused("InvalidParameterException")
        if not secret_id.startswith("arn:"):
            name, account = secret_id, ACCOUNT
        else:
            account, resource = secret_id.split(":")[4], secret_id.partition(":secret:")[2]
            name = resource[:-7] if secret_id == arn_of(resource[:-7], account) else resource
        if account == ACCOUNT and name not in self.versions:
            raise Refused("ResourceNotFoundException")
        return name, account


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve("127.0.0.1", parser.parse_args().port, Answers(os.environ["SIGNING_KEY"]).answer))
