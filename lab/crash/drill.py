"""Makes faults happen to a stack under load, and judges what came out of it."""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from lab.crash import disk
from lab.crash.faults import Random, Situation, Step
from lab.crash.judge import RESOLUTIONS_NS, Verdict, judge
from lab.crash.load import Load
from lab.crash.refusals import Refusals
from lab.crash.samples import SECOND_NS, WINDOW_S, Group, Kind
from lab.crash.sink import Sink
from lab.crash.stack import NUM_SHARDS, Settings, Stack
from lab.crash.waits import Waits
from lab.crash.writing import Writer, stored
from lab.http import try_get
from lab.instances import Aggregator
from lab.waiting import wait_until

__all__ = ["Drill", "Outcome", "drill"]

_LONG_S = 2 * WINDOW_S
_STALE_S = 5.0
"""Samples older than that wait for an ack: somebody is not back yet."""
_PATIENCE_S = 20.0
_ACKED_S = 120.0
_LATER_S = 4.0
"""So long after everything is right it has to stay so."""
_POLL_S = 2.0
_STORED_S = 60.0
_ON_ITS_WAY_S = 1.0
"""So long after the disk was full an ack may still come of what was written before."""


@dataclass(slots=True)
class Outcome:
    """What a run has shown."""

    name: str
    seconds: float
    verdict: Verdict
    faults: dict[str, int]
    refused: dict[str, int]
    resent: int
    unacked: int
    broken: list[str] = field(default_factory=list)
    """What else was promised and not kept."""
    invalid: list[str] = field(default_factory=list)
    """Why the run proves nothing."""
    waits: list[str] = field(default_factory=list)
    """Of a situation: how long each process took that was started in it, and when the first value came after the last step, and the
    latest of those without times."""

    @property
    def passed(self) -> bool:
        """Nothing is lost, doubled, refused or left over."""
        kept = self.verdict.clean and not (self.unacked or self.broken or sum(self.refused.values()))
        return kept and not self.invalid


class Drill:
    """A stack under load."""

    def __init__(
        self, stack: Stack, load: Load, writer: Writer | None, sink: Sink, refusals: Refusals, waits: Waits
    ) -> None:
        self.stack, self.load, self.writer, self.sink, self.refusals = stack, load, writer, sink, refusals
        self.waits = waits
        self._steps_s = 0.0
        """When the first step was done (monotonic); 0: there are no steps."""
        self._stepped_ns = 0
        """When the last one was (Unix ns)."""
        self.faults: Counter[str] = Counter()
        self.cuts_ns: list[tuple[int, int]] = []
        """Of the power: before and after."""
        self.forgiven_s = 0.0
        """What was acked so short before a cut of the power may be lost."""
        self.broken: list[str] = []
        self.log: list[str] = []
        self._full_ns = 0
        """Since when the disk is full; 0: it is not."""

    # --- faults

    def wait(self, seconds: float) -> None:
        """Nothing happens."""
        _sleep_until(self.load.begin_ns + int(seconds * 1e9))

    def random(self, seconds: float, seed: int) -> None:
        """Deaths and cuts for so many seconds."""
        faults = Random(seed)
        cuts = ["cut producers", "cut aggregator", "cut sink"] + (["cut writer"] if self.writer else [])
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(faults.pause_s())
            give_up = time.monotonic() + (_PATIENCE_S if faults.patient() else 0.0)
            while self.load.oldest_s > _STALE_S and time.monotonic() < give_up:
                time.sleep(0.1)
            what, seconds_cut = faults.choose(self.stack.roles(), cuts), faults.seconds()
            if what in cuts:
                self._cut(what, seconds_cut)
            elif not self.stack.kill(what):
                continue
            self._note(what)

    def _cut(self, what: str, seconds: float) -> None:
        if what == "cut producers":
            self.load.deafen(seconds)
        elif what == "cut sink":
            self.sink.cut(seconds)
        elif what == "cut writer":
            assert self.writer is not None
            self.writer.cut()
        else:
            for relay in self.stack.relays:
                relay.hold_answers()
            time.sleep(seconds)
            for relay in self.stack.relays:
                relay.interrupt()

    def situation(self, situation: Situation, phase_s: float, before_s: float = 0.0) -> None:
        """Its steps, from ``phase_s`` into a window of the longer resolution on; returns a whole window after the last one.

        ``before_s``: so long samples come before, at least.
        """
        whole = _LONG_S * SECOND_NS
        moment = (self.load.begin_ns // whole + 1 + math.ceil(before_s / _LONG_S)) * whole + int(phase_s * 1e9)
        _sleep_until(moment - SECOND_NS)
        leader = wait_until("somebody leads", self._leader, 60)
        others = [one for one in self.stack.aggregators if one is not leader]
        roles = {"leader": leader, "follower": others[0] if others else leader}
        shift = 0
        for step in situation.steps:
            _sleep_until(moment + shift + int(step.at_s * 1e9))
            if step.action == "wait":
                self._wait_until_acked(time.time_ns(), self.stack.aggregators.index(roles[step.who]))
                shift = time.time_ns() - moment - int(step.at_s * 1e9)
                continue
            self._steps_s = self._steps_s or time.monotonic()
            self._stepped_ns = time.time_ns()
            self._do(step, roles.get(step.who))
            self._note(f"{step.action} {step.who}".strip(), hurts=step.hurts)
        _sleep_until(time.time_ns() + whole)

    def power_cuts(self, times: int) -> None:
        """The power of the first instance is cut in the middle of a window, again and again."""
        window = WINDOW_S * SECOND_NS
        began = self.load.begin_ns
        for _ in range(times):
            self._wait_until_acked(began)
            _sleep_until((time.time_ns() // window + 2) * window + window // 2)
            aggregator = self.stack.aggregators[0]
            before = time.time_ns()
            lost = self.stack.cut_power(aggregator)
            self.cuts_ns.append((before, time.time_ns()))
            self._note(f"power cut ({lost.nbytes} bytes and {lost.files} files lost)")
            began = time.time_ns()
            aggregator.start()
        self._wait_until_acked(began)

    def _wait_until_acked(self, since_ns: int, instance: int | None = None) -> None:
        wait_until("everything is acked", lambda: self.load.caught_up(since_ns, instance), 120)

    def _do(self, step: Step, instance: Aggregator | None) -> None:
        everything = {"kill all": self.stack.kill_everything, "start all": self.stack.start_everything}
        if step.action in everything:
            everything[step.action]()
            return
        assert instance is not None
        if step.action.startswith("kill "):
            roles = [role for role in self.stack.roles() if role.startswith(step.action.removeprefix("kill "))]
            for role in roles[:1]:
                self.stack.kill(role)
            return
        if step.action == "start":
            # Its end may take a moment; the next step does not wait for it.
            threading.Thread(target=instance.start, daemon=True).start()
            return
        pid = instance.process.pid
        actions: dict[str, Callable[[], None]] = {
            "kill": instance.kill,
            "terminate": instance.terminate,
            "fill": lambda: self._fill(pid),
            "room": lambda: self._make_room(instance, pid),
        }
        actions[step.action]()

    def _fill(self, pid: int) -> None:
        self._full_ns = time.time_ns()
        disk.fill(pid)

    def _make_room(self, instance: Aggregator, pid: int) -> None:
        """Before there is room again: nothing was acked since the disk is full, and it is said."""
        acked_s = (self.load.acked_ns - self._full_ns) / 1e9
        if acked_s > _ON_ITS_WAY_S:
            self.broken.append(f"an ack {acked_s:.1f} s after the disk was full")
        for path in ("/ready", "/"):
            status, text = try_get(instance.http + path)
            if "acknowledges nothing" not in text or (path == "/ready" and status == 200):
                self.broken.append(f"{path} does not say that the disk is full (status {status})")
        disk.make_room(pid)
        self._full_ns = 0

    def _leader(self) -> Aggregator | None:
        return next((one for one in self.stack.aggregators if one.running and one.leads()), None)

    def _note(self, what: str, *, hurts: bool = True) -> None:
        if hurts:
            self.faults[" ".join(word for word in what.partition(" (")[0].split() if not word.isdigit())] += 1
        seconds = time.time_ns() // 1_000_000 % 3_600_000
        self.log.append(f"{seconds // 60_000:02}:{seconds // 1000 % 60:02}.{seconds % 1000:03} {what}")

    # --- the end

    def finish(self, name: str) -> Outcome:
        """No further samples; waits until everything is acked and out, and judges."""
        begin, end = self.load.begin_ns, self.load.stop()
        if self.writer is not None:
            self.writer.stop(end)
        _sleep_until(end)
        give_up = time.monotonic() + _ACKED_S
        while self._unacked() and time.monotonic() < give_up:
            time.sleep(0.1)
        deadline = max(time.time_ns(), end) + int((self.stack.settings.settle_s + _ACKED_S / 4) * 1e9)
        clean, judged = False, -1
        while not clean and time.time_ns() < deadline:
            time.sleep(_POLL_S)
            if (received := self.sink.received) != judged:
                judged, clean = received, self._judge(begin, end).clean
        time.sleep(_LATER_S)
        verdict = self._judge(begin, end)
        refused = self.refusals.by_reason()
        resent = self.load.resent
        if self.writer is not None:
            resent += self.writer.repeated
            if self.writer.refused:
                refused["remote write 4xx"] = self.writer.refused
            self._judge_stored(verdict, begin, end)
        broken = [*self.broken, *(f"{name} does not run" for name in self.stack.missing())]
        if not verdict.clean:
            for one in self.stack.aggregators:
                state = one.flush_status() if one.running else {}
                _, waits = try_get(one.http + "/ready") if one.running else (0, "")
                self._note(f"{one.name} at the end: {state}, {waits}", hurts=False)
        seconds = (end - begin) / 1e9
        return Outcome(
            name, seconds, verdict, dict(self.faults), refused, resent, self._unacked(), broken, self._invalid(),
            self._waited(),
        )  # fmt: skip

    def _waited(self) -> list[str]:
        if not self._steps_s:
            return []
        first_s = self.sink.first_after_s(self._stepped_ns)
        late_s = max(
            (
                (window.times[0] - time_ns) / 1e9
                for group in self.load.groups
                if group.kind is Kind.COUNTER
                for resolution in RESOLUTIONS_NS
                for time_ns, window in self.sink.windows(group.ident, resolution).items()
            ),
            default=0.0,
        )
        texts = [str(life) for life in self.waits.since(self._steps_s)]
        first = "–" if first_s is None else f"{first_s:.1f} s"
        return [*texts, f"first value {first} after the last step, untimed ones at most {late_s:.1f} s late"]

    def _unacked(self) -> int:
        return self.load.unacked + (self.writer.unacked if self.writer is not None else 0)

    def _groups(self) -> list[Group]:
        return [*self.load.groups, *(self.writer.groups if self.writer is not None else ())]

    def _judge(self, begin: int, end: int) -> Verdict:
        mirrored = len(self.stack.aggregators) > 1
        forgiven = [(before - int(self.forgiven_s * 1e9), after) for before, after in self.cuts_ns]
        return judge(self._groups(), self.sink.windows, begin, end, mirrored=mirrored, forgiven=forgiven)

    def oldest_lost_s(self, verdict: Verdict) -> float:
        """How long before a cut of the power the oldest sample had been acked that it took."""
        ages = [
            (before - acked) / 1e9
            for acked in verdict.forgiven_ns
            for before, after in self.cuts_ns
            if before - self.forgiven_s * 1e9 < acked <= after
        ]
        return max(ages, default=0.0)

    def _judge_stored(self, verdict: Verdict, begin: int, end: int) -> None:
        """What came out is stored in the end, at the shorter resolution: the coordinator may have been dead a moment ago."""
        missing = [f"the store did not answer for {_STORED_S:g} s"]

        def stored_as_it_came() -> bool:
            missing[:] = self._compare(begin, end)
            return not missing

        with suppress(TimeoutError):
            wait_until("what came out is stored", stored_as_it_came, _STORED_S, _POLL_S)
        for text in missing:
            verdict.add_missing(Kind.WRITTEN, text)

    def _compare(self, begin: int, end: int) -> list[str]:
        """What is stored otherwise than it came out. Raises ``OSError``: the store does not answer."""
        assert self.writer is not None
        resolution = RESOLUTIONS_NS[0]
        found = stored(self.stack.coordinator_url, begin - _LONG_S * SECOND_NS, end + _LONG_S * SECOND_NS)
        texts = []
        for group in self.writer.groups:
            for time_ns, window in self.sink.windows(group.ident, resolution).items():
                value = found.get(group.ident, {}).get(time_ns)
                if value != window.values[-1]:
                    texts.append(
                        f"{group.ident.decode()}: {time_ns // SECOND_NS} is stored as {value}, not {window.values[-1]:g}"
                    )
        return texts

    def _invalid(self) -> list[str]:
        """What this process itself did wrong."""
        late_s, allowed_s = self.load.late_s, self.stack.settings.past_s / 4
        return [f"the drill stood still for {late_s:.1f} s: samples came late"] if late_s > allowed_s else []


def _sleep_until(at_ns: int) -> None:
    while (left := (at_ns - time.time_ns()) / 1e9) > 0:
        time.sleep(min(left, 0.5))


@contextmanager
def drill(settings: Settings, scale: int, *, direct: bool = True, patience_s: float = 1.0) -> Iterator[Drill]:
    """A stack that is started and under load; everything is gone afterwards.

    ``direct``: whether aggregators get samples over m3msg from us. ``patience_s``: of impatient producers (``Load``).
    """
    closing: list[Callable[[], None]] = []
    sink = Sink()
    try:
        with Stack(settings, sink.address) as stack:
            try:
                stack.start()
                addresses = [one.socket_address for one in stack.aggregators]
                guarded = settings.instances > 1
                load = Load(addresses, NUM_SHARDS, scale if direct else 0, guarded=guarded, patience_s=patience_s)
                writer = Writer(stack.coordinator_url, scale) if settings.coordinator else None
                refusals, waits = Refusals(stack.aggregators), Waits(stack.aggregators)
                closing += [load.close, refusals.close, waits.close, *([writer.close] if writer else [])]
                load.start()
                if writer is not None:
                    writer.start(load.begin_ns)
                yield Drill(stack, load, writer, sink, refusals, waits)
            finally:
                for close in closing:
                    close()
    finally:
        sink.close()
