"""What a cluster is asked over HTTP: a coordinator's admin API, and port 6001 of every aggregator instance."""

import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field

from m3cluster.kv import StoreConfig
from m3ctl.answers import (
    CoordinatorReady,
    Environment,
    Environments,
    Flow,
    Instance,
    Loads,
    Placement,
    PlacementAnswer,
    QueryAnswer,
    Ready,
    Shards,
    Sinks,
    Status,
    TopicAnswer,
)
from m3ctl.client import Answer, Caller, CtlError, Unreachable
from m3metrics.traffic import TrafficReport

__all__ = [
    "AGGREGATOR",
    "COORDINATOR",
    "ENVIRONMENT_HEADER",
    "ZONE_HEADER",
    "Cluster",
    "Missing",
    "Settings",
    "Target",
    "instance_url",
]

AGGREGATOR = "m3aggregator"
COORDINATOR = "m3coordinator"
ENVIRONMENT_HEADER = "Cluster-Environment-Name"
ZONE_HEADER = "Cluster-Zone-Name"


class Missing(CtlError):
    """The coordinator answers that a placement or topic does not exist."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the cluster is. ``aggregators``: (instance id or empty, URL); empty: as the placement says."""

    coordinator: str
    aggregators: tuple[tuple[str, str], ...] = ()
    environment: str = "default_env"
    zone: str = "embedded"
    timeout_s: float = 5.0
    aggregator_port: int = 6001
    aggregator_scheme: str = "http"
    """Of instances that only the placement names."""
    caller: Caller = field(default_factory=Caller)
    kv: StoreConfig | None = None
    election_key: str = "shardset/%d/lock"
    flush_times_key: str = "shardset/%d/flush"


@dataclass(frozen=True, slots=True)
class Target:
    """One aggregator instance and where its HTTP is; ``instance`` None: the placement does not name it."""

    id: str
    url: str
    instance: Instance | None = None

    @property
    def shard_set(self) -> int:
        """Its shard set; 0: not known."""
        return self.instance.shard_set_id if self.instance is not None else 0


@dataclass(slots=True)
class Cluster:
    """One cluster; every method makes requests anew. All raise ``CtlError``."""

    settings: Settings
    now_ns: Callable[[], int] = field(default=time.time_ns)

    # --- the coordinator

    def health(self) -> Answer:
        """``/health`` of the coordinator."""
        answer = self._ask("/health")
        if answer.status != 200:
            raise CtlError(f"{answer.url} answered {answer.status}: {answer.text()!r}; is this a coordinator?")
        return answer

    def coordinator_ready(self) -> CoordinatorReady:
        """``/ready`` of the coordinator."""
        return self._ask("/ready").read(CoordinatorReady, what="an M3 coordinator")

    def flow(self, target: Target | None = None) -> Flow | None:
        """``/flow`` of an aggregator, or of the coordinator; None: it does not serve it, as M3's own."""
        answer = self._ask("/flow") if target is None else self._of(target, "/flow")
        return None if answer.status == 404 else answer.read(Flow, what="a service of ours")

    def loads(self, target: Target) -> Loads | None:
        """``/status/load`` of an aggregator; None: it does not serve it."""
        answer = self._of(target, "/status/load")
        return None if answer.status == 404 else answer.read(Loads, what="a service of ours")

    def traffic(self, target: Target) -> TrafficReport | None:
        """``/status/traffic`` of an aggregator; None: it does not serve it."""
        answer = self._of(target, "/status/traffic")
        return None if answer.status == 404 else answer.read(TrafficReport, what="a service of ours")

    def points(self, selector: str, over_s: int) -> QueryAnswer:
        """What is stored of the series of a selector, of the last seconds."""
        query = f"{selector}[{over_s}s]"
        answer = self._ask(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        if answer.status != 200:
            raise CtlError(
                f"{self.settings.coordinator}: the query {query} was answered {answer.status}: {answer.text()}"
            )
        return answer.read(QueryAnswer, what="a coordinator that can be queried")

    def remote_write(self, body: bytes) -> Answer:
        """Sends samples, as Prometheus does."""
        headers = {
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        }
        url = f"{self.settings.coordinator}/api/v1/prom/remote/write"
        return self.settings.caller.request("POST", url, timeout_s=self.settings.timeout_s, headers=headers, body=body)

    def sinks(self) -> Sinks:
        """Where the coordinator's values go, and what waits; nothing where it does not say."""
        answer = self._ask("/api/v1/sinks")
        return Sinks() if answer.status == 404 else answer.read(Sinks, what="a coordinator of ours")

    def environments(self) -> list[Environment] | None:
        """The environments of its KV; None: it does not say, as M3's own coordinator."""
        answer = self._ask("/api/v1/environments")
        if answer.status == 404:
            return None
        self._good(answer, "the environments cannot be listed")
        return answer.read(Environments, what="a coordinator of ours").environments

    def placement(self, service: str, environment: str = "", zone: str = "") -> PlacementAnswer:
        """A service's placement; empty environment and zone: the cluster's. Raises ``Missing``."""
        path = f"/api/v1/services/{service}/placement"
        answer = self._ask(path, environment, zone)
        env = environment or self.settings.environment
        if answer.status == 404 and "does not exist" in answer.text():
            raise Missing(
                f"no placement of {service} in environment {env!r}; is --env right? If so, create it: "
                f"POST {self.settings.coordinator}{path}/init with the header {ENVIRONMENT_HEADER}: {env}"
            )
        self._good(answer, f"the placement of {service} cannot be read")
        return answer.read(PlacementAnswer, what="an M3 coordinator")

    def topic(self, name: str) -> TopicAnswer:
        """A topic. Raises ``Missing``."""
        answer = self._ask("/api/v1/topic", topic=name)
        if answer.status == 404 and "page not found" not in answer.text():
            env = self.settings.environment
            raise Missing(
                f"no topic {name} in environment {env!r} ({answer.text()}); is --env right? "
                f"If so, create it: POST {self.settings.coordinator}/api/v1/topic/init with the headers "
                f"{ENVIRONMENT_HEADER}: {env} and Topic-Name: {name}"
            )
        self._good(answer, f"the topic {name} cannot be read")
        return answer.read(TopicAnswer, what="an M3 coordinator")

    def _ask(self, path: str, environment: str = "", zone: str = "", topic: str = "") -> Answer:
        headers = {
            ENVIRONMENT_HEADER: environment or self.settings.environment,
            ZONE_HEADER: zone or self.settings.zone,
        }
        if topic:
            headers["Topic-Name"] = topic
        try:
            return self.settings.caller.request(
                "GET", self.settings.coordinator + path, timeout_s=self.settings.timeout_s, headers=headers
            )
        except Unreachable as error:
            raise Unreachable(f"coordinator: {error}; is it running, and is --coordinator right?") from error

    def _good(self, answer: Answer, what: str) -> None:
        if answer.status == 200:
            return
        text = answer.text()
        advice = (
            f"is --zone {self.settings.zone!r} ({ZONE_HEADER}) right?"
            if "zone" in text
            else "see the log of the coordinator"
        )
        if answer.status in (404, 405):
            advice = "is this a coordinator with a cluster (etcd or embedded KV)?"
        raise CtlError(f"{what}: {answer.url} answered {answer.status}: {text!r}; {advice}")

    # --- the aggregators

    def targets(self, placement: Placement | None) -> list[Target]:
        """The instances to ask: the ones that were named, else all of the placement, in order of shard set and id."""
        instances = [] if placement is None else [i for group in placement.shard_sets().values() for i in group]
        if not self.settings.aggregators:
            return [Target(i.id, self._url(i), i) for i in instances]
        by_id = {i.id: i for i in instances}
        found = []
        for name, url in self.settings.aggregators:
            ident = name or self._identify(url, instances)
            found.append(Target(ident, url, by_id.get(ident)))
        return found

    def _identify(self, url: str, instances: list[Instance]) -> str:
        """The instance that serves ``url``: by its own word, else by the placement, else the URL itself."""
        try:
            served = self.shards(Target(url, url))
            if served is not None and served.instance_id:
                return served.instance_id
        except CtlError:
            pass  # The command itself will meet the same error and report it.
        same = [i for i in instances if self._url(i) == url]
        host = url.partition("://")[2].rpartition(":")[0]
        near = same or [i for i in instances if i.host == host]
        return near[0].id if len(near) == 1 else url

    def _url(self, instance: Instance) -> str:
        return instance_url(instance, self.settings.aggregator_port, self.settings.aggregator_scheme)

    def status(self, target: Target) -> tuple[str, bool]:
        """Election state and whether it can lead, from ``/status``."""
        found = self._of(target, "/status").read(Status, what="an M3 aggregator").status.flush_status
        return found.election_state, found.can_lead

    def shards(self, target: Target) -> Shards | None:
        """``/shards``; None: it does not serve them, as M3's own aggregator."""
        answer = self._of(target, "/shards")
        return None if answer.status == 404 else answer.read(Shards, what="an aggregator")

    def ready(self, target: Target) -> Ready | None:
        """``/ready``; None: it does not serve it, as M3's own aggregator."""
        answer = self._of(target, "/ready")
        return None if answer.status == 404 else answer.read(Ready, what="an aggregator")

    def aggregator_health(self, target: Target) -> Answer:
        """``/health``."""
        answer = self._of(target, "/health")
        if answer.status != 200:
            raise CtlError(f"{answer.url} answered {answer.status}: {answer.text()!r}; is this an aggregator?")
        return answer

    def resign(self, target: Target, timeout_s: float) -> Answer:
        """``POST /resign``, which answers when another instance leads."""
        return self._of(target, "/resign", method="POST", timeout_s=timeout_s)

    def _of(self, target: Target, path: str, *, method: str = "GET", timeout_s: float | None = None) -> Answer:
        try:
            return self.settings.caller.request(
                method, target.url + path, timeout_s=timeout_s or self.settings.timeout_s
            )
        except Unreachable as error:
            raise Unreachable(
                f"instance {target.id}: {error}; is it running, and is its HTTP there? "
                "(--aggregator ID=URL, or --aggregator-port)"
            ) from error


def instance_url(instance: Instance, port: int, scheme: str = "http") -> str:
    """Where an instance serves HTTP: the host of its endpoint, and its ``debugPort`` if it names one, else ``port``."""
    named = instance.metadata.debug_port if instance.metadata is not None else 0
    return f"{scheme}://{instance.host}:{named or port}"
