"""The notifier's log in CloudWatch Logs. It has the deliveries, and metrics in CloudWatch's embedded metric format."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

OVERLAP = 10_000  # ms that are read again, because lines of an earlier invocation may arrive after lines of a later one

Line = Mapping[str, Any]


class NotifierLog:
    """Reader of one log group. It remembers the lines that it has read. A further read requests only newer lines, and
    those of the last OVERLAP milliseconds."""

    def __init__(self, logs: Any, group: str) -> None:
        self._logs = logs
        self._group = group
        self._seen: set[tuple[str, str]] = set()  # streams and messages
        self._events: list[tuple[int, str, Sequence[Line]]] = []  # times in ms, messages, and their JSON lines

    def text(self) -> str:
        """Return all messages so far, oldest first."""
        self._read()
        return "\n".join(message for _, message, _ in self._events)

    def lines(self) -> Sequence[Line]:
        """Return the lines that the function itself has logged so far, parsed from JSON, oldest first. Lambda's own
        lines are left out."""
        self._read()
        return [line for _, _, lines in self._events for line in lines]

    def metrics(self) -> Mapping[str, float]:
        """Return the sum of the values of each metric that the function has emitted, by the metric's name."""
        sums: Counter[str] = Counter()
        for line in self.lines():
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                for metric in directive["Metrics"]:
                    sums[metric["Name"]] += sum(line[metric["Name"]])
        return sums

    def deliveries(self, message: str = "delivered") -> Sequence[Line]:
        """Return the lines whose message is ``message`` ("delivered" or "not delivered"). Lines about heartbeats are
        left out."""
        return [line for line in self.lines() if line.get("message") == message and "secret_arn" in line]

    def delivered(self) -> set[str]:
        """Return the ids of all versions that every receiver has accepted."""
        return {line["version_id"] for line in self.deliveries() if "version_id" in line}

    def is_accepted(self, event_id: str) -> bool:
        """Return whether every receiver has accepted the event. The event may be a heartbeat."""
        return any(line.get("message") == "delivered" and line["correlation_id"] == event_id for line in self.lines())

    def steps(self, version_id: str) -> Mapping[str, float]:
        """Return the time of each step of a rotation on its way to the receivers, in seconds since the epoch.

        The steps are "queued", "taken" and "delivered". The result is empty until the function has logged "delivered".
        The function has to log its events (``DeployedAws.log_events``).
        """
        delivered = next((line for line in self.deliveries() if line["version_id"] == version_id), None)
        if delivered is None:
            return {}
        for line in self.lines():
            for record in _records(line):
                if delivered["correlation_id"] in record["body"]:
                    return {
                        "queued": int(record["attributes"]["SentTimestamp"]) / 1000,
                        "taken": _time(line),
                        "delivered": _time(delivered),
                    }
        return {}

    def _read(self) -> None:
        newest = self._events[-1][0] if self._events else 0
        pages = self._logs.get_paginator("filter_log_events").paginate(
            logGroupName=self._group, startTime=max(0, newest - OVERLAP)
        )
        for event in (event for page in pages for event in page["events"]):
            key = (event["logStreamName"], event["message"])
            if key not in self._seen:
                self._seen.add(key)
                lines = [json.loads(line) for line in event["message"].splitlines() if line.startswith("{")]
                self._events.append((event["timestamp"], event["message"], lines))
        self._events.sort(key=lambda each: each[0])


def _records(line: Line) -> Sequence[Mapping[str, Any]]:
    """Return the SQS records in a log line. Return no records if the line is not the event of an invocation."""
    message = line.get("message")
    return message.get("Records", []) if isinstance(message, dict) else []


def _time(line: Line) -> float:
    return datetime.strptime(line["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z").timestamp()
