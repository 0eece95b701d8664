"""One aggregator instance, before and around its service: what it waits for, and what is wrong with its set-up.

    KV ──placement, topics──> Instance ──view──> Serving (``serving``: everything else, once a placement names us)

Placement and topics are followed as long as it runs; what they say together is told in ``problems``.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from aggregator.config import KVKeys, ServiceConfig, kv_keys
from aggregator.supervisor.placement import View, view
from aggregator.supervisor.placement_figures import PlacementFigures
from aggregator.supervisor.problems import Problems
from aggregator.supervisor.processes.journals import unfinished
from aggregator.supervisor.serving import Serving
from aggregator.supervisor.set_up import (
    host_id_fault,
    ingest_topic_warning,
    no_placement_fault,
    output_topic_fault,
    replicas_warning,
    shard_counts_fault,
)
from m3cluster.following import follow
from m3cluster.kv import Store, Value
from m3cluster.placement.model import Placement
from m3cluster.topic import Topic
from m3cluster.topology import staged_placement_of, topic_of
from m3x.beats import beat
from m3x.clock import wall_ns
from m3x.instrument import Registry
from m3x.live_config import NeedsRestartError
from m3x.log import logger
from m3x.private import private_directory
from m3x.processes import Zygote
from m3x.segments import DirectoryLock, DirectoryLocked

__all__ = ["Instance"]

log = logger(__name__)

_MISSING_S = 1.0
"""How long a key may take to be read before it counts as missing."""
_LOOK_S = 0.1
_RESIZE = "workers"
"""The subject of what is said meanwhile."""


class Instance:
    """See the module; ``listeners`` are bound to the addresses for metrics. ``run`` returns after ``stop`` when everything has ended.

    With another number of workers (``resize``) it goes on as after a restart: the ``Serving`` ends, and the next one replays its journals.
    """

    def __init__(
        self,
        config: ServiceConfig,
        store: Store,
        instance_id: str,
        *,
        workers: int,
        zygote: Zygote,
        listeners: Sequence[socket.socket],
        run_dir: Path,
        data_dir: Path | None,
        registry: Registry,
    ) -> None:
        self.instance_id = instance_id
        self.keys: KVKeys = kv_keys(config)
        self.problems = Problems()
        self.view: View | None = None
        self.serving: Serving | None = None
        """None: no placement that names us has come yet."""
        self._store = store
        self._config = config
        self._figures = PlacementFigures(
            registry.scope(".".join(filter(None, (config.metrics.scope.prefix, "aggregator")))).tagged(
                **config.metrics.scope.tags
            )
        )
        self._journal = _journal_of(config, instance_id, data_dir)
        self._lock: DirectoryLock | None = None
        """On the folder of the journals, if there is one and it can be written."""
        self._make = partial(
            Serving,
            keys=self.keys,
            store=store,
            zygote=zygote,
            listeners=listeners,
            run_dir=run_dir,
            journal=self._journal,
            registry=registry,
            problems=self.problems,
        )
        self._wanted = workers
        """Workers, at most."""
        self._renewed = False
        """The configuration has keys that processes are made with anew."""
        self._resized = asyncio.Event()
        """One of these two has changed."""
        self._topic_keys = _topic_keys(config)
        self._output_topic: Topic | None = None
        self._ingest_topic: Topic | None = None
        self._ingest_known = False
        """The topic was read, or there was time enough to read it."""
        self._news = asyncio.Event()
        """A placement came, or ``stop``."""
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begins the end: hand over the lead, deliver what was emitted, end all processes."""
        self._stopping.set()
        self._news.set()

    def take(self, config: ServiceConfig) -> None:
        """The configuration has changed, in keys that ``Serving.take`` takes."""
        self._config = config
        if self.serving is not None:
            self.serving.take(config)

    def resize(self, workers: int) -> None:
        """Goes on with so many workers at most, as soon as nothing is lost by it. Raises ``NeedsRestartError`` where something would be."""
        self._require_journal()
        self._wanted = workers
        self._resized.set()

    def renew(self, config: ServiceConfig) -> None:
        """Goes on with new processes, for keys that are looked at when these are made. Raises ``NeedsRestartError`` as ``resize``."""
        self._require_journal()
        self._config, self._renewed = config, True
        self._resized.set()

    def _require_journal(self) -> None:
        if self._journal is None:
            raise NeedsRestartError("without journals (instance.journal) the windows of the workers would be lost")

    async def run(self) -> None:
        """Serves until ``stop``."""
        async with asyncio.TaskGroup() as group:
            watches = [
                group.create_task(
                    follow(self._store, self.keys.placement, staged_placement_of, self._placement, self._unusable)
                ),
                *(
                    group.create_task(follow(self._store, key, topic_of, self._topic_changed(role, key)))
                    for role, key in self._topic_keys.items()
                ),
                group.create_task(self._say_what_is_missing()),
            ]
            resized: asyncio.Task[None] | None = None
            front_epoch = 1
            if await self._locked():
                while (seen := await self._named()) is not None:
                    workers = self._workers(seen)
                    self._renewed = False
                    serving = self._make(
                        self._config,
                        seen=seen,
                        topic_shards=self._topic_shards(seen),
                        workers=workers,
                        front_epoch=front_epoch,
                    )
                    self.serving = serving
                    if resized is not None:
                        resized.cancel()
                    resized = group.create_task(self._until_whole(serving))
                    await serving.run(self._stopping, partial(self._another_number, serving))
                    front_epoch = serving.fleet.front.epoch + 1
            for task in (*watches, *filter(None, [resized])):
                task.cancel()
        if self._lock is not None:
            self._lock.close()

    def _workers(self, seen: View) -> int:
        """With how many workers to serve now."""
        before = 0 if self._journal is None else unfinished(self._journal)
        return before or self._possible(seen)

    def _possible(self, seen: View) -> int:
        """As many as are wanted, and have shards."""
        return max(min(self._wanted, len(seen.owned)), 1)

    async def _another_number(self, serving: Serving) -> None:
        """Returns when other processes are to go on, and no sample is anywhere but in the journals."""
        now = len(serving.fleet.workers)
        if now != self._possible(serving.view):
            # The process before ended while it took journals over.
            self._resized.set()
        while True:
            await self._resized.wait()
            self._resized.clear()
            wanted = self._possible(serving.view)
            if wanted == now and not self._renewed:
                continue
            if not serving.whole.is_set():
                log.info("other workers are wanted: waiting until all journals are whole", workers=wanted)
            await serving.whole.wait()
            self.problems.set(
                _RESIZE,
                f"{_change(now, wanted)}: nothing is taken until the new ones have replayed the journals; producers hold what they have",
            )
            return

    async def _until_whole(self, serving: Serving) -> None:
        await serving.whole.wait()
        self.problems.set(_RESIZE, None)

    async def _locked(self) -> bool:
        """Takes the folder of the journals, as soon as nobody else has it; False: ``stop`` came before that.

        One that cannot be written is no reason not to serve; the workers say what is wrong with it.
        """
        folder = self._journal
        if folder is None:
            return True
        with contextlib.suppress(OSError):
            private_directory(folder)
            while not self._stopping.is_set():
                try:
                    self._lock = DirectoryLock(folder)
                    break
                except DirectoryLocked as error:
                    self.problems.set("journal", f"waiting for the journals: {error}")
                    await beat(self._stopping, _LOOK_S)
        self.problems.set("journal", None)
        return not self._stopping.is_set()

    async def _named(self) -> View | None:
        """The first placement that names us; None: ``stop`` came before it."""
        while not self._stopping.is_set():
            if self.view is not None and self.view.instance is not None:
                return self.view
            self._news.clear()
            await self._news.wait()
        return None

    # --- what the KV says

    def store_trouble(self) -> str | None:
        """Why the store does not answer; None: it does."""
        return self._store.trouble()

    def _placement(self, placement: Placement | None) -> None:
        if placement is None:
            # As M3: a deleted placement changes nothing for those who run.
            log.warning("the placement was deleted; going on with the last one", key=self.keys.placement)
            return
        before, self.view = self.view, view(placement, self.instance_id)
        seen = self.view
        self._figures.changed(before, seen)
        if seen.instance is None:
            self.problems.set("placement", host_id_fault(seen))
        else:
            self.problems.set("placement", None)
            self.problems.set("replicas", replicas_warning(seen), serious=False)
            left_s = seen.cutover_left_ns(wall_ns()) / 1e9
            if left_s > 0:
                log.info("the placement is not cut over yet", seconds_left=round(left_s, 1))
        log.info("placement", version=placement.version, shards=len(seen.owned), num_shards=placement.num_shards)
        self._check_ingest()
        self._tell(seen)
        self._news.set()

    def _unusable(self, value: Value, error: ValueError) -> None:
        self._figures.unusable()
        log.error(
            "the placement in the KV cannot be used; the last good one counts",
            key=self.keys.placement, version=value.version, problem=str(error),
        )  # fmt: skip

    def _tell(self, seen: View) -> None:
        if self.serving is not None:
            self.serving.update(seen, self._topic_shards(seen))

    def _topic_shards(self, seen: View) -> int:
        """Shards of the output topic; until it exists, as many as the placement has."""
        return self._output_topic.number_of_shards if self._output_topic is not None else seen.placement.num_shards

    def _topic_changed(self, role: str, key: str) -> Callable[[Topic | None], None]:
        def ingest(topic: Topic | None) -> None:
            self._ingest_topic, self._ingest_known = topic, True
            self._check_ingest()

        def output(topic: Topic | None) -> None:
            self._topic_problem(key, topic)
            before, self._output_topic = self._output_topic, topic or self._output_topic
            if self.view is not None and before != self._output_topic:
                self._tell(self.view)

        return ingest if role == "ingest" else output

    async def _say_what_is_missing(self) -> None:
        """Keys that do not exist are only known as such while the store answers; until then it says itself what is wrong."""
        output = self._topic_keys.get("output")
        while self.view is None or not self._ingest_known or (output is not None and self._output_topic is None):
            await asyncio.sleep(_MISSING_S)
            if self.store_trouble() is not None:
                continue
            if self.view is None:
                self.problems.set("placement", no_placement_fault(self.keys.placement))
            if output is not None and self._output_topic is None:
                self._topic_problem(output, None)
            self._ingest_known = True
            self._check_ingest()

    def _topic_problem(self, key: str, topic: Topic | None) -> None:
        self.problems.set("output topic", output_topic_fault(key.rsplit("/", 1)[-1], topic))

    def _check_ingest(self) -> None:
        """What the topic and the placement of our input say together."""
        self.problems.set("shard counts", shard_counts_fault(self._ingest_topic, self.view))
        key = self._topic_keys.get("ingest")
        if key is not None and self._ingest_known:
            name, service = key.rsplit("/", 1)[-1], self.keys.placement.rsplit("/", 1)[-1]
            self.problems.set("ingest topic", ingest_topic_warning(name, self._ingest_topic, service), serious=False)


def _change(now: int, wanted: int) -> str:
    if now == wanted:
        return "workers are started anew, as keys have changed"
    return f"the number of workers changes from {now} to {wanted}"


def _journal_of(config: ServiceConfig, instance_id: str, data_dir: Path | None) -> Path | None:
    """The folder of this instance's journals; None: none are wanted."""
    return (data_dir or Path()) / "journal" / quote(instance_id, safe="") if config.instance.journal else None


def _topic_keys(config: ServiceConfig) -> dict[str, str]:
    """The topics that an instance reads from and writes to, by role."""
    section, default = config.aggregator, config.kv_client.environment
    writers = {}
    for handler in section.flush.handlers:
        if handler.dynamic_backend is not None:
            writers["output"] = handler.dynamic_backend.producer.writer
            break
    if section.client.m3msg is not None:
        writers["ingest"] = section.client.m3msg.producer.writer
    return {name: writer.topic_key(default) for name, writer in writers.items()}
