"""The full keys of everything that M3 stores (docs/m3/cluster.md, keys). Never normalise them: double and leading slashes are meant."""

__all__ = [
    "DEFAULT_ENVIRONMENT",
    "DEFAULT_ZONE",
    "election_prefix",
    "flush_times_key",
    "kv_key",
    "placement_key",
    "rule_namespaces_key",
    "rule_set_key",
    "topic_key",
]

DEFAULT_ENVIRONMENT = "default_env"
DEFAULT_ZONE = "embedded"

_AGGREGATOR = "m3aggregator"


def _join(*parts: str) -> str:
    """Parts joined by slashes; an empty environment leaves no segment behind."""
    return "/".join(part for part in parts if part)


def kv_key(environment: str, key: str, namespace: str = "_kv") -> str:
    """``_kv/{env}/{key}``, or ``{namespace}/{env}/{key}`` for a store with a namespace of its own."""
    return f"{_join(namespace or '_kv', environment)}/{key}"


def topic_key(environment: str, topic: str, namespace: str = "/topic") -> str:
    """``/topic/{env}/{topic}``, or ``{namespace}/{env}/{topic}`` for a store with a namespace of its own."""
    return _join(namespace or "/topic", environment, topic)


def placement_key(environment: str, service: str, namespace: str | None = None) -> str:
    """``_sd.placement/{env}/{service}``; m3aggregator's placement lives under ``/placement`` (and is staged)."""
    if namespace is None:
        namespace = "/placement" if service == _AGGREGATOR else "_sd.placement"
    return _join(namespace, environment, service)


def election_prefix(environment: str, service: str, election: str) -> str:
    """``_ld/{env}/{service}/{election}`` without a slash at the end; candidates' keys add ``/{lease id in hex}``."""
    return _join("_ld", environment, service, election or "default")


def flush_times_key(environment: str, shard_set: int, key_format: str = "shardset/%d/flush") -> str:
    """``_kv/{env}/shardset/{N}/flush``; ``key_format`` is the configuration's ``flushTimesKeyFmt``."""
    return kv_key(environment, key_format.replace("%d", str(shard_set)))


def rule_namespaces_key(environment: str, key: str = "/namespaces") -> str:
    """``_kv/{env}//namespaces``: the key itself starts with a slash."""
    return kv_key(environment, key)


def rule_set_key(environment: str, namespace: str, key_format: str = "/ruleset/%s") -> str:
    """``_kv/{env}//ruleset/{namespace}``."""
    return kv_key(environment, key_format.replace("%s", namespace))
