from __future__ import annotations

import re

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from pt.relayd.metrics import exposition, registry_of
from pt.relayd.status import Totals
from tests.unit.relayd.samples import NOW, PEER_ID, snapshot


def samples(text: str, parser=parse) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser(text)
        for sample in family.samples
    }


def scrape(accept: str = "", **fields: object) -> tuple[str, str]:
    body, content_type = exposition(registry_of(lambda: snapshot(**fields)), accept)
    return body.decode(), content_type


def test_values():
    text, content_type = scrape()
    assert content_type.startswith("text/plain")
    found = samples(text)

    def of(name: str, **labels: str) -> float:
        return found["pt_relay_" + name, tuple(sorted(labels.items()))]

    assert of("info", version="0.1.0", peer_id=PEER_ID) == 1
    assert of("start_time_seconds") == NOW - 3600
    assert of("draining") == 0
    assert of("connections") == 5
    assert of("accepted_connections_total") == 21
    assert of("circuits", kind="raw") == 2
    assert of("circuits", kind="libp2p") == 1
    assert of("class_circuits", **{"class": "user"}) == 2
    assert of("class_circuits_limit", **{"class": "stranger"}) == 1024
    assert of("class_served", **{"class": "stranger"}) == 1
    assert of("reservations", **{"class": "user"}) == 3
    assert of("reservations_limit", **{"class": "stranger"}) == 128
    assert of("circuit_limit_seconds", **{"class": "stranger"}) == 120
    assert of("circuit_limit_bytes", **{"class": "stranger"}) == 131072
    assert of("bandwidth_limit_bytes_per_second", **{"class": "user"}) == 125e6
    assert of("reservation_events_total", event="refreshed") == 4
    assert of("opened_circuits_total", kind="raw") == 7
    assert of("relayed_bytes_total", kind="raw") == 10**9
    assert of("refusals_total", reason="resource_limit_exceeded") == 2
    assert found["process_resident_memory_bytes", ()] > 0
    assert of("overlay_records") == 1234
    assert of("overlay_record_bytes") == 1_543_000
    assert of("overlay_nodes") == 2
    assert of("overlay_evicted_records_total") == 1
    assert of("overlay_requests_total", method="find_value") == 70
    assert of("overlay_requests_total", method="ping") == 0
    assert of("overlay_refused_records_total", reason="stale") == 4
    assert of("overlay_refused_records_total", reason="quota") == 0
    assert of("overlay_dropped_datagrams_total", reason="rate") == 5
    assert of("overlay_datagrams_total", direction="in") == 100
    assert of("overlay_bytes_total", direction="out") == 90_000
    assert of("stun_requests_total", result="answered") == 40
    assert of("stun_requests_total", result="refused") == 0
    assert of("stun_requests_total", result="dropped: too many") == 2


def test_a_relay_without_stun():
    assert "stun" not in scrape(stun=None)[0]


def test_a_relay_without_an_overlay():
    assert "overlay" not in scrape(overlay=None)[0]


def test_no_limit_has_no_sample():
    found = samples(scrape()[0])
    assert ("pt_relay_circuit_limit_seconds", (("class", "user"),)) not in found
    assert ("pt_relay_bandwidth_limit_bytes_per_second", (("class", "stranger"),)) not in found


def test_open_metrics():
    text, content_type = scrape("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    found = samples(text, parse_open)
    assert found["pt_relay_relayed_bytes_total", (("kind", "raw"),)] == 10**9


def test_each_scrape_takes_a_snapshot():
    taken = []

    def take():
        taken.append(snapshot(connections=len(taken)))
        return taken[-1]

    registry = registry_of(take)
    assert taken == []
    for i in range(3):
        found = samples(exposition(registry, "")[0].decode())
        assert found["pt_relay_connections", ()] == i


def test_names_follow_the_conventions():
    """Lower case, base units, `_total` for counters alone; each family has a text."""
    for family in parse(scrape()[0]):
        if family.name.startswith("process_"):
            continue
        assert re.fullmatch(r"pt_relay(_[a-z]+)+", family.name), family.name
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
        assert not re.search(r"kilo|mega|milli|minutes|bits", family.name)


def test_a_relay_that_serves_nobody_yet():
    text, _ = scrape(grades=(), circuits=(), reservations=(), open_circuits={}, totals=Totals())
    found = samples(text)
    assert ("pt_relay_connections", ()) in found
    for kind in ("raw", "libp2p"):
        for name in ("circuits", "opened_circuits_total", "relayed_bytes_total"):
            assert found[f"pt_relay_{name}", (("kind", kind),)] == 0
