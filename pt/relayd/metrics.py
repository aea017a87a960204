"""A snapshot as Prometheus metrics, names `pt_relay_…`, beside those of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, get_args

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pt.overlay.messages import METHODS
from pt.overlay.storage import Refusal
from pt.relayd.status import GradeView, Kind, OverlayView, Snapshot

__all__ = ["exposition", "registry_of"]

_NO_KIND: Final = dict.fromkeys(get_args(Kind), 0)
"""A metric that appears with its first event hides that event from rates."""


def registry_of(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """A registry of its own that takes a snapshot for each scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_RelayCollector(snapshot))
    ProcessCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics' text and its content type, as the header `Accept` wants them."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _RelayCollector(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing: a snapshot is not taken in order to register."""
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield from _state(snapshot)
        yield from _grades(snapshot.grades)
        yield from _totals(snapshot)
        if snapshot.overlay is not None:
            yield from _overlay(snapshot.overlay)
        if snapshot.stun is not None:
            results = {**dict.fromkeys(("answered", "refused"), 0), **snapshot.stun}
            text = "STUN requests, by what became of them"
            yield _labelled(CounterMetricFamily, "stun_requests", text, "result", results)


def _state(snapshot: Snapshot) -> Iterator[Metric]:
    info = InfoMetricFamily("pt_relay", "The relay")
    info.add_metric([], {"version": snapshot.version, "peer_id": snapshot.peer_id})
    yield info
    yield _gauge("start_time_seconds", "Unix time of the start", snapshot.started)
    yield _gauge("draining", "1: no new reservations and circuits", int(snapshot.draining))
    yield _gauge("connections", "Connections of peers", snapshot.connections)
    open_circuits = {**_NO_KIND, **snapshot.open_circuits}
    yield _labelled(GaugeMetricFamily, "circuits", "Open circuits by kind", "kind", open_circuits)


def _grades(grades: tuple[GradeView, ...]) -> Iterator[Metric]:
    def by_class(name: str, text: str, of: Callable[[GradeView], float | None]) -> Metric:
        found = {one.grade: of(one) for one in grades}
        known = {grade: value for grade, value in found.items() if value is not None}
        return _labelled(GaugeMetricFamily, name, text, "class", known)

    yield by_class("class_served", "1: this class may use the relay", lambda one: int(one.served))
    yield by_class("reservations", "Reservations held", lambda one: one.reservations)
    yield by_class("reservations_limit", "Most reservations", lambda one: one.reservations_limit)
    yield by_class("class_circuits", "Open circuits by class", lambda one: one.circuits)
    yield by_class("class_circuits_limit", "Most open circuits", lambda one: one.circuits_limit)
    yield by_class(
        "circuit_limit_seconds", "Longest a circuit lasts; none: for ever", lambda one: one.duration
    )
    yield by_class(
        "circuit_limit_bytes", "Most bytes of a circuit each way; none: any", lambda one: one.data
    )
    yield by_class(
        "bandwidth_limit_bytes_per_second",
        "What all circuits share; none: not shaped",
        lambda one: one.rate,
    )


def _totals(snapshot: Snapshot) -> Iterator[Metric]:
    totals = snapshot.totals
    connections = CounterMetricFamily("pt_relay_accepted_connections", "Connections accepted")
    connections.add_metric([], totals.connections)
    yield connections
    for name, text, label, values in (
        ("reservation_events", "Reservations by what happened", "event", totals.reservations),
        ("opened_circuits", "Circuits opened, by kind", "kind", {**_NO_KIND, **totals.circuits}),
        ("relayed_bytes", "Bytes moved both ways, by kind", "kind", {**_NO_KIND, **totals.bytes}),
        ("refusals", "Requests refused, by reason", "reason", totals.refusals),
    ):
        yield _labelled(CounterMetricFamily, name, text, label, values)


def _overlay(view: OverlayView) -> Iterator[Metric]:
    yield _gauge("overlay_records", "Records held for the overlay", view.records)
    yield _gauge("overlay_record_bytes", "Their bytes", view.bytes)
    yield _gauge("overlay_nodes", "Other servers of the overlay that are known", view.nodes)
    evicted = CounterMetricFamily("pt_relay_overlay_evicted_records", "Records that made room")
    evicted.add_metric([], view.evicted)
    yield evicted
    refused = {**dict.fromkeys(map(str, Refusal), 0), **view.refused}
    requests = {**dict.fromkeys((*METHODS, "plain"), 0), **view.requests}
    for name, text, label, values in (
        ("requests", "Requests of the overlay, by method", "method", requests),
        ("refused_records", "Records that were not kept, by reason", "reason", refused),
        ("dropped_datagrams", "Datagrams without an answer, by reason", "reason", view.dropped),
        ("datagrams", "Datagrams of the overlay, by direction", "direction", view.datagrams),
        ("bytes", "Bytes of the overlay, by direction", "direction", view.traffic),
    ):
        yield _labelled(CounterMetricFamily, f"overlay_{name}", text, label, values)


def _gauge(name: str, text: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(f"pt_relay_{name}", text)
    gauge.add_metric([], value)
    return gauge


def _labelled(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    metric = family(f"pt_relay_{name}", text, labels=[label])
    for value, count in sorted(values.items()):
        metric.add_metric([value], count)
    return metric
