"""The stages of the chain: functions whose CPU is told apart. What is called within a stage and is one itself counts there only."""

from typing import NamedTuple

__all__ = ["ENVIRONMENT", "STAGES", "Stage"]

ENVIRONMENT = "BENCH_PROFILE"
"""The variable that names the folder to which processes write."""


class Stage(NamedTuple):
    """One function."""

    name: str
    module: str
    function: str
    """``Class.method``, or the name of a function that the module calls by its global name."""


STAGES = (
    Stage("HTTP: bytes to requests", "uvicorn.protocols.http.httptools_impl", "HttpToolsProtocol.data_received"),
    Stage("known series: snappy", "coordinator.write.known", "KnownSeries.unpacked"),
    Stage("known series: parse, look up, encode", "coordinator.write.known", "KnownSeries.encode"),
    Stage("snappy", "coordinator.write.decoding", "decompress"),
    Stage("parse the request", "coordinator.write.decoding", "RequestDecoder.decode"),
    Stage("look up series, encode messages", "coordinator.write.remote_write", "RemoteWriter._encode"),
    Stage("producer: take, split by shard", "m3msg.producer.shell", "Producer.produce"),
    Stage("producer: seal, give to connections", "m3msg.producer.shell", "Producer._flush"),
    Stage("producer: frames, socket", "m3msg.producer.connection", "Connection.pump"),
    Stage("producer: acks back", "m3msg.producer.connection", "Connection._on_readable"),
    Stage("front: socket", "aggregator.front.intake", "Intake._receive"),
    Stage("front: frames, shards", "aggregator.front.intake", "Intake._frames"),
    Stage("front: ipc to the worker", "aggregator.front.links", "WorkerLink.send"),
    Stage("front: acks from the worker", "aggregator.front.process", "Front._take_acks"),
    Stage("front: acks to sockets", "aggregator.front.clients", "Clients.flush"),
    Stage("worker: ipc from the front", "aggregator.worker.links", "FrontLink.receive"),
    Stage("worker: decode, look up, accumulate, build acks", "aggregator.engine.engine", "Engine.ingest"),
    Stage("worker: journal", "aggregator.worker.durable", "Durable.batch"),
    Stage("worker: ipc of acks", "aggregator.worker.links", "FrontLink.ack"),
    Stage("worker: close windows", "aggregator.engine.engine", "Engine.flush"),
    Stage("worker: encode values", "aggregator.engine.flush.run", "FlushRun.__next__"),
    Stage("worker: ipc to the supervisor", "aggregator.worker.links", "SupervisorLink.send"),
    Stage("supervisor: take output", "aggregator.supervisor.output.forwarder", "batch_of"),
    Stage("supervisor: forward", "aggregator.supervisor.output.sinks", "ProducerSink.deliver"),
    Stage("7507: decode messages", "m3msg.consumer.core", "ConsumerCore.received"),
    Stage("7507: acks", "m3msg.consumer.core", "ConsumerCore.ack"),
    Stage("7507: translate", "coordinator.ingest.translate", "Translator.translate"),
    Stage("series numbers", "coordinator.sinks.series", "SeriesTable.numbers"),
    Stage("queue on disk", "coordinator.sinks.queue", "Queue.append"),
    Stage("sink: labels", "coordinator.sinks.prom_remote.labels", "LabelFields.require"),
    Stage("sink: encode, snappy", "coordinator.sinks.prom_remote.encoding", "Encoder.body"),
)
