"""`make bench-notifier` measures the CPU time and the size of the notifier's artifact. An empty handler is measured in
the same run. The ratios compare the notifier with this empty handler.

Python does not cache bytecode here, because it cannot do so in Lambda, where the artifact is read-only. Only the CPU
time of the process that runs the handler counts. AWS and the receiver run in other processes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from keyturn_contract.message import CONTENT_TYPE_BATCH, Outcome, Result, decode, encode_reply
from keyturn_local.aws.server import LocalAws
from keyturn_local.bench.rows import Row, table, write
from keyturn_local.notifier import artifact
from keyturn_local.notifier.function import function_environment
from keyturn_local.paths import ROOT

RUNS = 15  # the number of new processes for each of the two handlers; the handlers alternate
WARM = 200  # the number of invocations of a warm process
OUTPUT = ROOT / "build" / "bench-notifier.json"

# The empty handler for comparison. It is the first example in the documentation of Powertools.
EMPTY = """
from aws_lambda_powertools import Logger, Metrics
logger = Logger(service="empty")
metrics = Metrics(namespace="Empty", service="empty")

@logger.inject_lambda_context
@metrics.log_metrics
def handler(event, context):
    metrics.add_metric(name="Calls", unit="Count", value=1)
    return {}
"""

# The measured program. It prints the CPU seconds of three phases: the import, the first invocation, and all later
# invocations.
PROBE = """
import importlib, json, sys, time, uuid
module, batch, warm = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

class Context:
    function_name, memory_limit_in_mb, aws_request_id = "f", 1769, "r"
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:f"
    def get_remaining_time_in_millis(self):
        return 30_000

def records():
    detail = {"name": "prod/db", "labelUpdated": "AWSCURRENT", "versionId": str(uuid.uuid4())}
    event = {"version": "0", "detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
             "account": "123456789012", "time": "2026-11-24T12:00:00Z", "region": "us-east-1",
             "resources": ["arn:aws:secretsmanager:us-east-1:123456789012:secret:prod/db-a1b2c3"], "detail": detail}
    bodies = [json.dumps({**event, "id": str(uuid.uuid4())}) for _ in range(batch)]
    return {"Records": [{"messageId": str(n), "receiptHandle": "h", "body": body,
                         "attributes": {"ApproximateReceiveCount": "1"}} for n, body in enumerate(bodies)]}

events = [records() for _ in range(1 + warm)]
at = [time.process_time()]
handler = importlib.import_module(module).handler
at.append(time.process_time())
answer = handler(events[0], Context())
at.append(time.process_time())
failed = list(answer.get("batchItemFailures", []))
for event in events[1:]:
    failed += handler(event, Context()).get("batchItemFailures", [])
at.append(time.process_time())
if failed:
    sys.exit("deliveries failed: nothing was measured")
print(json.dumps([later - earlier for earlier, later in zip(at, at[1:])]), file=sys.stderr)
"""


def main() -> None:
    """Make the measurements. Print the rows as a table, and write them to OUTPUT as JSON."""
    built = artifact.build()
    with tempfile.TemporaryDirectory() as name, _Receiver() as url:
        directory = Path(name)
        (directory / "empty.py").write_text(EMPTY)
        with LocalAws.start(directory) as aws:
            environment = {
                **function_environment(aws, aws.provision(), [url]),
                "PYTHONPATH": os.pathsep.join([str(built), name]),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
            rows = [*_cold(environment), *_warm(environment)]
    rows += _sizes()
    write(rows, OUTPUT)
    print(table(rows))


def _cold(environment: Mapping[str, str]) -> list[Row]:
    empty, ours = [], []
    for _ in range(RUNS):
        empty.append(_measure("empty", environment))
        ours.append(_measure("keyturn_notifier.handler", environment))
    import_ms, empty_ms = (1000 * statistics.median(run[0] for run in runs) for runs in (ours, empty))
    cold_ms, empty_cold_ms = (1000 * statistics.median(run[0] + run[1] for run in runs) for runs in (ours, empty))
    return [
        Row("cold import, to an empty Powertools handler", import_ms / empty_ms, "x", 2.0),
        Row("cold import", import_ms, "ms CPU"),
        Row("cold import of an empty Powertools handler", empty_ms, "ms CPU"),
        Row("cold import and first delivery, to an empty handler's", cold_ms / empty_cold_ms, "x"),
        Row("cold import and first delivery", cold_ms, "ms CPU"),
    ]


def _warm(environment: Mapping[str, str]) -> list[Row]:
    ten = _measure("keyturn_notifier.handler", environment, batch=10, warm=WARM)[2] / (10 * WARM)
    one = _measure("keyturn_notifier.handler", environment, batch=1, warm=WARM)[2] / WARM
    empty = _measure("empty", environment, batch=1, warm=WARM)[2] / WARM
    return [
        Row("warm, a record of a batch of 10", 1000 * ten, "ms CPU", 10.0),
        Row("warm, a record alone", 1000 * one, "ms CPU", 10.0),
        Row("warm, a record alone, to an empty handler's invocation", one / empty, "x"),
    ]


def _sizes() -> list[Row]:
    directory = artifact.build(artifact.LAMBDA)
    archive = OUTPUT.with_name("notifier.zip")
    archive.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(directory.rglob("*")):
            file.write(each, each.relative_to(directory))
    return [
        Row("artifact for Lambda, unzipped", artifact.size(directory) / 2**20, "MiB", 25.0),
        Row("artifact for Lambda, zipped", archive.stat().st_size / 2**20, "MiB"),
    ]


def _measure(module: str, environment: Mapping[str, str], batch: int = 1, warm: int = 0) -> list[float]:
    interpreter = Path(sys.base_prefix) / "bin" / f"python{artifact.HERE[0]}"
    command: list[str | Path] = [interpreter, "-S", "-c", PROBE, module, str(batch), str(warm)]
    result = subprocess.run(command, env=dict(environment), capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"could not measure {module}:\n{result.stderr[-2000:]}")
    return [float(seconds) for seconds in json.loads(result.stderr.splitlines()[-1])]


class _Receiver:
    """A fake receiver on loopback. It reports every notification as applied."""

    def __enter__(self) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                events = decode(CONTENT_TYPE_BATCH, self.rfile.read(int(self.headers["Content-Length"])))
                reply = encode_reply([Result(event.id, Outcome.APPLIED) for event in events])
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/v1/notifications"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    main()
