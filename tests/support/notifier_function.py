"""The notifier's function of a deployed stack: its environment variables, and the kill -9 of its processes.

The emulator runs each execution environment of a function as one process of this machine.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keyturn_local.aws.emulator.sam import Deployment
from support.fault_proxy import Call, Cut, CutAfter, Fault, FaultProxy
from support.wait import eventually

APPLIED = "Keyturn Secret Applied"
# The queue's visibility timeout while a FunctionKiller is in use. After this time, SQS shows the messages of a killed
# function again. template.yaml sets three minutes.
VISIBILITY_SECONDS = 5
PATIENCE = 3.0  # seconds; by then the emulator has logged the death of a process


class NotifierFunction:
    """The notifier's function of one stack."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.name = deployment.resources()["Notifier"]
        self._lambda = deployment.emulator.client("lambda")

    @contextmanager
    def variables(self, **changed: str) -> Iterator[None]:
        """Change environment variables of the function. New execution environments begin with them."""
        before = self._lambda.get_function_configuration(FunctionName=self.name)["Environment"]["Variables"]
        self._update({**before, **changed})
        try:
            yield
        finally:
            self._update(before)

    def kill(self) -> int:
        """Kill all processes of the function with SIGKILL. Return how many were killed."""
        killed = 0
        for process in self._processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed += 1
        return killed

    def kill_in_a_batch(self) -> None:
        """Kill all processes of the function again and again, until one of them has died while it handled a batch. Fail
        after ten times."""
        before = self.failures()
        for _ in range(10):
            eventually(self.kill)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                if self.failures() > before:
                    return
                time.sleep(0.05)
        raise AssertionError("each time, the function was idle when it was killed")

    def failures(self) -> int:
        """Return the number of batches so far in which the function died or failed, according to the emulator."""
        return self.deployment.emulator.log.count(f"ESM: Lambda {self.name} failed processing SQS batch")

    def _update(self, variables: dict[str, str]) -> None:
        self._lambda.update_function_configuration(FunctionName=self.name, Environment={"Variables": variables})
        waiter = self._lambda.get_waiter("function_updated_v2")
        waiter.wait(FunctionName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 30})

    def _processes(self) -> Iterator[int]:
        # The name of a function has the random part of the stack's name, so no other process has this folder.
        folder = f"/ministack-lambda-{self.name}-".encode()
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdecimal() and folder in (process / "cmdline").read_bytes():
                    yield int(process.name)
            except OSError:
                continue  # the process has ended


class FunctionKiller:
    """Kills the function at the call that puts receipts of the kind Applied on the bus.

    A proxy stands between the function and AWS. ``receipt_ids`` are the ids of the receipts in that call.
    """

    def __init__(self, function: NotifierFunction) -> None:
        self.function = function
        self.receipt_ids: Sequence[str] = ()
        self.killed = threading.Event()
        self._lock = threading.Lock()
        self._is_armed = False
        self._after = False
        self._due: Call | None = None
        # The emulator checks signatures, and the host is signed.
        self._proxy = FaultProxy(function.deployment.emulator.endpoint_url, keeps_host=True)
        self._proxy.fault_for = self._fault_for
        self._proxy.on_answered = self._on_answered

    @classmethod
    @contextmanager
    def between(cls, function: NotifierFunction) -> Iterator["FunctionKiller"]:
        """Put the proxy between the function and AWS, and lower the queue's visibility timeout. At the end, undo
        both."""
        killer = cls(function)
        sqs, url = function.deployment.emulator.client("sqs"), function.deployment.outputs["QueueUrl"]
        read = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
        try:
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(VISIBILITY_SECONDS)})
            with function.variables(AWS_ENDPOINT_URL=killer._proxy.url):
                yield killer
        finally:
            sqs.set_queue_attributes(QueueUrl=url, Attributes=read)
            killer._proxy.close()

    def arm(self, after: bool) -> None:
        """Kill the function once, at the next call that puts such receipts.

        If ``after`` is true, the receipts are on the bus by then, but SQS has not deleted the messages yet.
        """
        self.killed.clear()
        self.receipt_ids = ()
        with self._lock:
            self._is_armed, self._after, self._due = True, after, None

    def _fault_for(self, call: Call) -> Fault:
        with self._lock:
            if not self._is_armed or call.action != "PutEvents" or not call.about(APPLIED):
                return None
            self._is_armed = False
        self.receipt_ids = [json.loads(each["Detail"])["receiptId"] for each in call.content["Entries"]]
        if self._after:
            self._due = call
            return CutAfter()
        self._kill()
        return Cut()

    def _on_answered(self, call: Call, status: int) -> None:
        if call is self._due:
            assert status == 200
            self._kill()

    def _kill(self) -> None:
        if self.function.kill():
            self.killed.set()
