"""A campaign as one HTML page that needs nothing else: heat map, times, timelines, intervals.

Colours of the heat map are of one hue by success rate, and the number is in the cell, so that it
can be read without colour, too.
"""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pt.lab.results import Attempt, Cell
from pt.lab.stats import median_interval, percentile, steps, wilson

__all__ = ["Group", "duration", "groups", "render", "summary"]

TIMELINES: Final = 12
"""Attempts that are drawn; failures first, then the slowest."""
MAX_CURVES: Final = 24
WIDTH: Final = 720
HEIGHT: Final = 260
EDGE: Final = 44

STYLE: Final = """
:root { --ink: #1b1f24; --soft: #5c6570; --line: #d5dae0; --back: #fff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa4b0; --line: #353c45; --back: #14171b; --card: #1c2127; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
       margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, figcaption { color: var(--soft); max-width: 48rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line); }
td.n { text-align: right; }
td.n, th[scope=row] { white-space: nowrap; }
table.heat th { font-weight: 500; font-size: .8rem; border: 0; white-space: nowrap; }
table.heat td { text-align: center; border: 2px solid var(--back); min-width: 4.2rem;
                font-size: .8rem; line-height: 1.25; }
table.heat td.none { color: var(--soft); }
svg { background: var(--card); border-radius: 6px; display: block; max-width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
figure { margin: 1rem 0; }
ul.key { columns: 2; list-style: none; padding: 0; font-size: .85rem; }
ul.key i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; }
"""


@dataclass(frozen=True, slots=True)
class Group:
    """All attempts of one cell by one puncher."""

    cell: Cell
    puncher: str
    attempts: tuple[Attempt, ...]

    @property
    def successes(self) -> int:
        """Attempts that are direct."""
        return sum(each.direct for each in self.attempts)

    @property
    def times(self) -> list[float]:
        """Times to direct of those."""
        return [each.seconds for each in self.attempts if each.direct and each.seconds is not None]

    @property
    def name(self) -> str:
        """What it is called in tables."""
        words = [self.cell.label or f"{self.cell.a} with {self.cell.b}"]
        for word in (self.cell.link, self.cell.cgn and f"cgn {self.cell.cgn}"):
            words += [word] if word else []
        words += [self.cell.strategy] if self.cell.strategy != "auto" else []
        return ", ".join(words)


def groups(attempts: Iterable[Attempt]) -> list[Group]:
    """Sort attempts by cell and puncher, in the order in which these first appear."""
    found: dict[tuple[str, str], list[Attempt]] = {}
    for each in attempts:
        found.setdefault((each.cell.key, each.puncher), []).append(each)
    return [Group(every[0].cell, every[0].puncher, tuple(every)) for every in found.values()]


def summary(group: Group) -> str:
    """Return one line for a terminal."""
    rate = wilson(group.successes, len(group.attempts))
    text = (
        f"{group.successes}/{len(group.attempts)} direct "
        f"({rate.low:.0%} to {rate.high:.0%} with 95 % confidence)"
    )
    if times := group.times:
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        text += f", time p50 {duration(p50)}, p99 {duration(p99)}"
        first = [each.verified for each in group.attempts if each.verified is not None]
        text += f" (first answer: {duration(percentile(first, 0.5))})" if first else ""
    winners = Counter(each.winner for each in group.attempts if each.winner)
    if winners:
        text += ", by " + ", ".join(f"{name} {count}" for name, count in winners.most_common())
    reasons = Counter(each.reason for each in group.attempts if not each.direct)
    for reason, count in reasons.most_common(2):
        text += f"; {count}: {reason}"
    late = [a.decided for a in group.attempts if not a.direct and a.decided is not None]
    return text + (f" (decided within {duration(max(late))})" if late else "")


def duration(seconds: float) -> str:
    """Return it in milliseconds, or in seconds from one on."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _text(value: object) -> str:
    return html.escape(str(value))


def render(attempts: Sequence[Attempt], title: str, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return the page. `facts`: what a reader needs to repeat it."""
    found = groups(attempts)
    rows = "".join(f"<tr><th>{_text(k)}<td>{_text(v)}" for k, v in facts)
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{_text(title)}</title><style>{STYLE}</style><body>"
        f"<h1>{_text(title)}</h1>"
        f"<p>{len(attempts)} attempts in {len(found)} cells. Intervals are of 95 % confidence: "
        "Wilson's for rates, order statistics' for medians. Times are the slower side's, from the "
        "moment at which both knew the other's addresses to a path verified in both directions."
        f"</p><table>{rows}</table>"
        + _heat_maps(found)
        + _table(found)
        + _distribution(found)
        + _timelines(attempts)
        + "</body></html>\n"
    )


# --- heat map ----------------------------------------------------------------------------------


def _heat_maps(found: Sequence[Group]) -> str:
    by_condition: defaultdict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in found:
        cell = group.cell
        condition = (group.puncher, cell.strategy, cell.link, cell.cgn, cell.engine)
        by_condition[condition].append(group)
    parts = ["<h2>Success by pair</h2>"]
    for (puncher, strategy, link, cgn, engine), members in by_condition.items():
        words = [f"puncher {puncher}", f"strategy {strategy}", link and f"link {link}"]
        words += [cgn and f"carrier's NAT {cgn}", f"{engine} engine"]
        caption = ", ".join(word for word in words if word)
        parts.append(f"<figure><figcaption>{_text(caption)}</figcaption>{_heat(members)}</figure>")
    return "".join(parts)


def _heat(members: Sequence[Group]) -> str:
    names = list(dict.fromkeys([m.cell.a for m in members] + [m.cell.b for m in members]))
    cells = {(m.cell.a, m.cell.b): m for m in members}
    head = "".join(f"<th scope=col>{_text(name)}" for name in names)
    rows = []
    for one in names:
        row = [f"<tr><th scope=row>{_text(one)}"]
        for other in names:
            group = cells.get((one, other)) or cells.get((other, one))
            row.append(_heat_cell(group))
        rows.append("".join(row))
    return f"<div class=scroll><table class=heat><tr><th>{head}{''.join(rows)}</table></div>"


def _heat_cell(group: Group | None) -> str:
    if group is None:
        return "<td class=none>&middot;"
    runs = len(group.attempts)
    share = group.successes / runs
    interval = wilson(group.successes, runs)
    times = group.times
    time = f"<br>{duration(percentile(times, 0.5))}" if times else ""
    light = 95 - 45 * share  # dark ink is readable on all of these
    why = f"{group.name}: {summary(group)}"
    return (
        f"<td style='background:hsl(158 45% {light:.0f}%);color:#0b1a13' title='{_text(why)}'>"
        f"{share:.0%}{time}<br><small>{interval.low:.0%} to {interval.high:.0%}</small>"
    )


# --- table and distribution --------------------------------------------------------------------


def _table(found: Sequence[Group]) -> str:
    head = "".join(
        f"<th>{word}"
        for word in (
            "pair",
            "runs",
            "direct",
            "interval",
            "p50",
            "interval",
            "p99",
            "packets",
            "by",
        )
    )
    rows = []
    for group in found:
        rate, times = wilson(group.successes, len(group.attempts)), group.times
        middle = p99 = spread = "-"
        if times:
            middle, p99 = duration(percentile(times, 0.5)), duration(percentile(times, 0.99))
            interval = median_interval(times)
            spread = f"{duration(interval.low)} to {duration(interval.high)}"
        packets = [max(each.packets.values()) for each in group.attempts if each.packets]
        most = str(max(packets)) if packets else "-"
        winners = Counter(each.winner for each in group.attempts if each.winner)
        by = ", ".join(f"{name} {count}" for name, count in winners.most_common(4))
        reasons = Counter(each.reason for each in group.attempts if not each.direct)
        by += "".join(f"; {count}: {reason}" for reason, count in reasons.most_common(2))
        cells = (
            len(group.attempts),
            f"{group.successes / len(group.attempts):.1%}",
            f"{rate.low:.1%} to {rate.high:.1%}",
            middle,
            spread,
            p99,
            most,
        )
        numbers = "".join(f"<td class=n>{_text(cell)}" for cell in cells)
        rows.append(f"<tr><th scope=row>{_text(group.name)}{numbers}<td>{_text(by)}")
    return (
        "<h2>Every cell</h2><p>Packets: the most that one side sent in one attempt.</p>"
        f"<div class=scroll><table><tr>{head}{''.join(rows)}</table></div>"
    )


def _distribution(found: Sequence[Group]) -> str:
    curves = [group for group in found if len(group.times) > 1][:MAX_CURVES]
    if not curves:
        return ""
    longest = max(max(group.times) for group in curves) or 1.0
    inner = WIDTH - 2 * EDGE
    parts = []
    for index, group in enumerate(curves):
        points = [f"{EDGE},{HEIGHT - EDGE}"]
        last = float(HEIGHT - EDGE)
        for value, share in steps(group.times):
            x = EDGE + inner * value / longest
            y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * share * len(group.times) / len(group.attempts)
            points += [f"{x:.1f},{last:.1f}", f"{x:.1f},{y:.1f}"]
            last = y
        hue = 360 * index / len(curves)
        title = f"<title>{_text(group.name)}: {_text(summary(group))}</title>"
        parts.append(
            f"<polyline points='{' '.join(points)}' fill=none stroke='hsl({hue:.0f} 60% 48%)' "
            f"stroke-width=1.6>{title}</polyline>"
        )
    legend = "".join(
        f"<li><i style='background:hsl({360 * index / len(curves):.0f} 60% 48%)'></i> "
        f"{_text(group.name)}"
        for index, group in enumerate(curves)
    )
    return (
        "<h2>Time to a direct path</h2><p>The share of all attempts that were direct by then; a "
        "curve that ends lower had failures.</p><figure>"
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width={WIDTH} role=img "
        f"aria-label='Distribution of time to direct'>{_axes(longest)}{''.join(parts)}</svg>"
        f"<ul class=key>{legend}</ul></figure>"
    )


def _axes(longest: float) -> str:
    parts = []
    for index in range(5):
        x = EDGE + (WIDTH - 2 * EDGE) * index / 4
        y = HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * index / 4
        parts.append(
            f"<line x1={x} x2={x} y1={EDGE} y2={HEIGHT - EDGE} stroke='var(--line)'/>"
            f"<line x1={EDGE} x2={WIDTH - EDGE} y1={y} y2={y} stroke='var(--line)'/>"
            f"<text x={x} y={HEIGHT - EDGE + 16} text-anchor=middle>"
            f"{duration(longest * index / 4)}</text>"
            f"<text x={EDGE - 6} y={y + 4} text-anchor=end>{25 * index} %</text>"
        )
    return "".join(parts)


# --- timelines ---------------------------------------------------------------------------------


def _timelines(attempts: Sequence[Attempt]) -> str:
    telling = [each for each in attempts if each.timeline]
    telling.sort(key=lambda each: (each.direct, -(each.seconds or 0.0)))
    if not telling:
        return ""
    figures = "".join(_timeline(each) for each in telling[:TIMELINES])
    return (
        "<h2>Attempts</h2><p>Failures first, then the slowest. Each mark is an event; its text is "
        f"shown by pointing at it, and listed below.</p>{figures}"
    )


def _timeline(attempt: Attempt) -> str:
    begin = min(float(event["t"]) for event in attempt.timeline)
    end = max(float(event["t"]) for event in attempt.timeline)
    span = max(end - begin, 1e-6)
    lanes = {"a": 34, "b": 74}
    marks = []
    for event in attempt.timeline[:1000]:
        x = EDGE + (WIDTH - 2 * EDGE) * (float(event["t"]) - begin) / span
        y = lanes.get(str(event.get("side")), 34)
        kind = str(event["event"])
        colour = "#2c7be5" if kind == "outcome" else "var(--soft)"
        radius = 5 if kind in ("outcome", "signal") else 2.5
        title = f"<title>{float(event['t']) - begin:.4f} s {_text(_words(event))}</title>"
        marks.append(f"<circle cx={x:.1f} cy={y} r={radius} fill='{colour}'>{title}</circle>")
    lines = "".join(
        f"<line x1={EDGE} x2={WIDTH - EDGE} y1={y} y2={y} stroke='var(--line)'/>"
        f"<text x=16 y={y + 4}>{name}</text>"
        for name, y in lanes.items()
    )
    verdict = (
        f"direct in {duration(attempt.seconds)}" if attempt.seconds is not None else attempt.reason
    )
    caption = (
        f"{attempt.cell.a} with {attempt.cell.b}, run {attempt.run}, seed {attempt.seed}: {verdict}"
    )
    listed = "".join(
        f"<li>{float(event['t']) - begin:.4f} s {_text(event.get('side', ''))}: "
        f"{_text(_words(event))}"
        for event in attempt.timeline[:200]
    )
    return (
        f"<figure><figcaption>{_text(caption)}</figcaption>"
        f"<svg viewBox='0 0 {WIDTH} 100' width={WIDTH} role=img aria-label='Timeline'>"
        f"{lines}{''.join(marks)}<text x={EDGE} y=96>0</text>"
        f"<text x={WIDTH - EDGE} y=96 text-anchor=end>{duration(span)}</text></svg>"
        f"<details><summary>events</summary><ol>{listed}</ol></details></figure>"
    )


def _words(event: dict[str, object]) -> str:
    rest = {key: value for key, value in event.items() if key not in ("t", "side", "event")}
    return " ".join([str(event["event"]), *(f"{key}={value}" for key, value in rest.items())])
