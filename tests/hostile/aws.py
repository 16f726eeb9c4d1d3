"""Imitates AWS for two teams. It answers quickly where all is well, and badly where the hostile tenant's names ask for
it.

- Every region but the own one hangs.
- A secret whose name contains ``/hot-`` is throttled. A batch with a name that contains ``!`` is refused as a whole.
- Another account's secret is never in a batch's answer, as AWS documents it, and has the value FOREIGN.
- A role whose name begins with ``hang`` hangs in STS, and one that begins with ``refuse`` is refused.

``python -m hostile.aws --port N`` runs it. Actions that begin with ``test.`` control it.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import secrets
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httptools
import uvloop

from keyturn_contract.signature import new_key
from keyturn_local.aws import sdk
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
        """Give secrets, by name, a value. Return the new version id of each."""
        return dict(self._ask("test.Put", values))

    def put_binary(self, name: str, content: bytes) -> None:
        """Give one secret a binary value."""
        self._ask("test.PutBinary", {name: base64.b64encode(content).decode()})

    def calls(self) -> Counter[str]:
        """Return the number of calls by action, and by region as ``region <name>``."""
        return Counter(self._ask("test.Calls", {}))

    def _ask(self, action: str, body: Any) -> Any:
        content, headers = json.dumps(body).encode(), {"X-Amz-Target": action}
        request = urllib.request.Request(self.endpoint_url, content, headers)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - loopback
            return json.load(reply)


def arn_of(name: str, account: str = ACCOUNT) -> str:
    """Return the complete ARN of a secret. Its suffix is derived from the name."""
    suffix = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"arn:aws:secretsmanager:{REGION}:{account}:secret:{name}-{suffix}"


class Refused(Exception):
    """AWS refuses the call, with this code."""


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

    def answer(self, action: str, body: bytes, authorization: str) -> tuple[int, str, bytes] | None:
        """Return status, content type and body of the answer, or None if there is none."""
        if action.startswith("test."):
            return 200, "application/json", json.dumps(self._control(action, json.loads(body))).encode()
        if not action:
            return self._sts(parse_qs(body.decode())) if body else (200, "text/plain", b"")
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
        return status, "application/x-amz-json-1.1", json.dumps(content).encode()

    def _control(self, action: str, body: Any) -> Any:
        match action:
            case "test.Put":
                return {name: self.put(name, text) for name, text in body.items()}
            case "test.PutBinary":
                return {name: self.put(name, binary=content) for name, content in body.items()}
            case _:
                return self.calls

    def _sts(self, form: Mapping[str, list[str]]) -> tuple[int, str, bytes] | None:
        role = form.get("RoleArn", [""])[0].rpartition("/")[2]
        self.calls["AssumeRole"] += 1
        if role.startswith("hang"):
            return None
        if role.startswith("refuse"):
            error = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code></Error></ErrorResponse>"
            return 403, "text/xml", error.encode()
        end = (datetime.now(UTC) + ROLE_LIFETIME).strftime("%Y-%m-%dT%H:%M:%SZ")
        keys = f"<AccessKeyId>{role}</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>x</SessionToken>"
        result = f"<Credentials>{keys}<Expiration>{end}</Expiration></Credentials>"
        kind = "AssumeRoleWithWebIdentity"
        text = f"<{kind}Response><{kind}Result>{result}</{kind}Result></{kind}Response>"
        return 200, "text/xml", text.encode()

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


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection, which is kept alive."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: dict[bytes, str] = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        action, authorization = self._headers.get(b"x-amz-target", ""), self._headers.get(b"authorization", "")
        answer = self._answers.answer(action, self._body, authorization)
        if answer is None:
            return
        status, content_type, content = answer
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
        delay = 0.0 if action.startswith("test.") else LATENCY
        asyncio.get_running_loop().call_later(delay, self._transport.write, head.encode() + content)


async def _serve(port: int, answers: Answers) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().port, Answers(os.environ["SIGNING_KEY"])))
