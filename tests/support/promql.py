"""Checks the PromQL of the chart's alerts and dashboard against the metric series that a receiver exposes."""

import re
from collections.abc import Set

import promql_parser as promql
from prometheus_client import ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from keyturn_receiver.telemetry.metrics import Metrics

SCRAPED = frozenset({"namespace", "pod"})  # labels that the Prometheus operator adds for both kinds of monitor
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def series() -> dict[str, Set[str]]:
    """Return the labels of each series that a receiver exposes."""
    found: dict[str, Set[str]] = {
        sample.name: SCRAPED for metric in ProcessCollector(registry=None).collect() for sample in metric.samples
    }
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            for suffix in _SUFFIXES[metric._type]:
                found[metric._name + suffix] = SCRAPED | {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
    return found


def metric(name: str) -> str:
    """Return the name of the metric to which a series belongs."""
    return re.sub("_(bucket|sum|count)$", "", name)


def selectors(parsed: promql.Expr) -> list[promql.VectorSelector]:
    """Return all vector selectors of an expression, at any depth."""
    return [node for node in _nodes(parsed) if isinstance(node, promql.VectorSelector)]


def faults(expression: str, namespace: str) -> list[str]:
    """Return the errors of an expression: unknown series, unknown labels, and selectors that are not limited to one
    namespace.

    Raises ValueError if the expression is not valid PromQL.
    """
    parsed, known, found = promql.parse(expression), series(), []
    for selector in selectors(parsed):
        if selector.name not in known:
            found.append(f"there is no {selector.name}")
        named = {(each.name, str(each.op), each.value) for each in selector.matchers.matchers}
        found += [f"{selector.name} has no {name}" for name, _, _ in named if name not in known.get(selector.name, ())]
        if ("namespace", str(promql.MatchOp.Equal), namespace) not in named:
            found.append(f"{selector.name} of other namespaces, too")
    for node in _nodes(parsed):
        if isinstance(node, promql.AggregateExpr) and node.modifier:
            lost = set(node.modifier.labels) - _labels(node.expr, known)
            found += [f"{node.expr} has no {label}" for label in lost]
    return found


def labels(expression: str) -> Set[str]:
    """Return the labels of the series that an expression yields."""
    return _labels(promql.parse(expression), series())


def _labels(parsed: promql.Expr, known: dict[str, Set[str]]) -> Set[str]:
    match parsed:
        case promql.VectorSelector():
            return known.get(parsed.name or "", frozenset())
        case promql.MatrixSelector():
            return _labels(parsed.vector_selector, known)
        case promql.ParenExpr() | promql.SubqueryExpr():
            return _labels(parsed.expr, known)
        case promql.BinaryExpr():
            return _labels(parsed.lhs, known)
        case promql.AggregateExpr():
            return set(parsed.modifier.labels) if parsed.modifier else frozenset()
        case promql.Call() if parsed.args:
            return _labels(parsed.args[-1], known) - ({"le"} if parsed.func.name == "histogram_quantile" else set())
    return frozenset()


def _nodes(parsed: promql.Expr) -> list[promql.Expr]:
    found: list[promql.Expr] = []
    promql.walk(parsed, found.append)
    return found
