"""What mutated inputs have found, a test for each kind: very many digits or levels, numbers out of range, lists that grow by doubling."""

from collections.abc import Callable

import numpy as np
import pytest

from aggregator.supervisor.flushing.holding import decode_holding
from coordinator.downsample.explain import parse_metric
from coordinator.query.errors import QueryError
from coordinator.query.graphite.paths import GlobError, expansions
from coordinator.query.graphite.times import parse_time
from coordinator.query.selector import parse_matchers, parse_selector
from coordinator.sinks.prom_remote.answers import judge
from coordinator.write.carbon_line import parse_line, parse_value
from coordinator.write.influx import Influx
from coordinator.write.json_write import JSONWrite
from coordinator.write.options import MAP_TAGS, STORAGE_POLICY, BadRequestError, WriteOptions, parse_options
from m3cluster.kv import MemoryServer
from m3cluster.placement import (
    InvalidPlacementError,
    Placement,
    PlacementOptions,
    PlacementService,
    decode_placement,
    decode_staged_placement,
    encode_placement,
    encode_staged_placement,
)
from m3cluster.proto import DecodeError, parse_json
from m3cluster.proto.rules import RULE_SET
from m3cluster.topic import Topic, TopicError, decode_topic, encode_topic, validate_topic
from m3db.topology import Host, Topology, TopologyError
from m3metrics.errors import PolicyError
from m3metrics.policy import StoragePolicy, parse_duration
from m3metrics.rules import RulesError, rule_set_from
from m3metrics.shard import MAX_SHARDS
from m3msg.producer.filters import FilterError, ShardSetFilter
from m3x.config import Duration, document
from m3x.config.document import DocumentError, compose

DIGITS = "9" * 6000
MANY_DIGITS = "9" * 100_000
BLANKS = " " * 100_000
LEVELS = "[" * 100_000


@pytest.mark.parametrize("time", ["1e14", "1e300", "-5", "-1e12"])
def test_a_time_of_a_selector_that_no_calendar_has(time: str) -> None:
    with pytest.raises(QueryError, match="^the time behind @ is before 1970, or too far from it$"):
        parse_selector(f"up @ {time}")


@pytest.mark.parametrize("number", ["99999999y", *(f"1{'0' * zeros}" for zeros in range(14, 25)), DIGITS])
@pytest.mark.parametrize("form", ["up[{}]", "up offset {}", "up offset -{}", "up[5m:{}]", "up[{}:5m]", "up @ -{}"])
def test_a_duration_of_a_query_that_no_calendar_has(form: str, number: str) -> None:
    query = form.format(number)
    try:
        assert abs(parse_selector(query).shift(0, 0, 0)) < 1 << 62
    except QueryError as error:
        assert error.status in (400, 422)
    try:
        parse_matchers(query)
    except QueryError as error:
        assert error.status == 400


def test_very_many_digits_of_a_policy_wrap_as_few_do() -> None:
    assert parse_duration("9" * 30 + "s") == ((10**30 - 1) * 10**9 + (1 << 63)) % (1 << 64) - (1 << 63)
    assert parse_duration(f"{DIGITS}s") == parse_duration(f"{(10**6000 - 1) % (1 << 64)}s")
    with pytest.raises(PolicyError):
        StoragePolicy.parse(f"{DIGITS}:2d")
    with pytest.raises(BadRequestError):
        parse_options({"M3-Metrics-Type": "aggregated", STORAGE_POLICY: f"{DIGITS}:2d"})


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        (f"0.{DIGITS}s", 999_999_999),
        (f"0.{'0' * 6000}9h", 0),
        (f"{'0' * 6000}1s", 10**9),
        ("0.9223372036854775808h", 3_320_413_933_267),
        ("0.9223372036854775809h", 3_320_413_933_267),
        ("1.5h", 5_400 * 10**9),
    ],
)
def test_very_many_digits_of_a_duration(text: str, ns: int) -> None:
    assert abs(Duration.parse(text) - ns) <= 1


def test_a_duration_beyond_all() -> None:
    with pytest.raises(ValueError, match="too long a duration"):
        Duration.parse(f"{DIGITS}s")


def test_very_many_digits_of_a_whole_number_of_influx() -> None:
    decoded = Influx().decode(b"a b=%bi 5\na c=1 5" % DIGITS.encode(), WriteOptions())
    assert len(decoded.series) == 1


def test_a_shard_set_is_as_small_as_its_text() -> None:
    every = ShardSetFilter.parse("0..4294967295")
    assert every.mask(_Block()).all()  # type: ignore[arg-type]
    assert ShardSetFilter.parse(["5..7", "003"]).mask(_Block()).tolist() == [False, True, True]  # type: ignore[arg-type]
    for text in ("0..4294967296", DIGITS, "٣"):
        with pytest.raises(FilterError):
            ShardSetFilter.parse(text)


@pytest.mark.parametrize("zeros", ["0" * 6000, "-" + "0" * 6000, "+" + "0" * 6000])
def test_very_many_zeros_in_front_of_a_whole_number(zeros: str) -> None:
    assert parse_line(f"a 1 {zeros}7".encode())[2] == int(f"{zeros[0]}7")
    assert parse_time(f"{zeros}7", 0) == int(f"{zeros[0]}7") * 10**9
    if zeros[0] != "+":
        decoded = Influx().decode(f"a b={zeros}7i 5".encode(), WriteOptions())
        assert decoded.values.tolist() == [float(f"{zeros[0]}7")]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (parse_value, MANY_DIGITS + "x"),
        (parse_value, f"{MANY_DIGITS}.{MANY_DIGITS}x"),
        (parse_value, f"0x{MANY_DIGITS}.{MANY_DIGITS}"),
        (lambda text: parse_line(f"a 1 {text}".encode()), MANY_DIGITS + "x"),
        (lambda text: JSONWrite().decode(text.encode(), WriteOptions()), f'{{"timestamp": "{MANY_DIGITS}x"}}'),
        (Duration.parse, MANY_DIGITS),
        (Duration.parse, "1s" + MANY_DIGITS),
        (parse_metric, BLANKS + "}"),
        (parse_metric, f'a{{a={BLANKS}"}}'),
        (parse_metric, f'a{{{BLANKS}a{BLANKS}="}}'),
    ],
)
def test_a_long_text_is_gone_through_once(read: Callable[[str], object], text: str) -> None:
    """What went through it again for each of its characters would take minutes here."""
    with pytest.raises(ValueError, match="[a-z]"):
        read(text)


class _Block:
    """What a shard set looks at of a block."""

    shards = np.array([0, 3, 6], np.uint32)


@pytest.mark.parametrize("stars", ["**." * 40 + "a." * 9 + "b", "**." * 255 + "a"])
def test_a_glob_of_very_many_stars_is_soon_decided(stars: str) -> None:
    try:
        assert expansions(stars, 3) == []
    except GlobError as error:
        assert "more than 64 ways" in str(error)


def test_a_glob_of_very_many_parts() -> None:
    with pytest.raises(GlobError, match="more than 256 parts"):
        expansions("**." * 1000 + "a", 3)


def test_very_many_levels_of_json() -> None:
    with pytest.raises(BadRequestError):
        parse_options({MAP_TAGS: LEVELS})
    with pytest.raises(BadRequestError):
        JSONWrite().decode(LEVELS.encode(), WriteOptions())
    with pytest.raises(ValueError, match="nested too deeply"):
        decode_holding(b'{"x":' + LEVELS.encode())
    assert judge(400, LEVELS).text


@pytest.mark.parametrize(
    "rules",
    [
        '{"mappingRules": [null]}',
        '{"rollupRules": [{"snapshots": [null]}]}',
        '{"rollupRules": [{"snapshots": [{"targets": [null]}]}]}',
        '{"rollupRules": [{"snapshots": [{"targets": [{"policies": [null]}]}]}]}',
        '{"rollupRules": [{"snapshots": [{"targetsV2": [null]}]}]}',
        '{"rollupRules": [{"snapshots": [{"targetsV2": [{"pipeline": {"ops": [null]}}]}]}]}',
        '{"mappingRules": [{"snapshots": [{"filter": "a:b", "tags": [null]}]}]}',
    ],
)
def test_null_in_a_list_of_a_rule_set(rules: str) -> None:
    with pytest.raises(RulesError, match=r"^null among the [a-z_0-9]+ of a rule set$"):
        rule_set_from(parse_json(RULE_SET, rules))


def test_half_a_surrogate_pair_in_a_header() -> None:
    text = '{"tagMappers":[{"write":{"tag":"\\ud800","value":"b"}}]}'
    assert parse_options({MAP_TAGS: text}).map_tags == (("\ufffd".encode(), b"b"),)
    with pytest.raises(BadRequestError, match="^\ufffd operation is not yet supported$"):
        parse_options({MAP_TAGS: '{"tagMappers":[{"\\ud800":{}}]}'})


@pytest.mark.parametrize("form", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_of_aliases(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "_MAX_NODES", 10_000)
    lines = [f"a0: &a0 {form.format('')}"]
    lines += [f"a{n}: &a{n} {form.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 20)]
    with pytest.raises(DocumentError, match="more than 10000 values"):
        compose("\n".join(lines), "file", [])


TOO_MANY = f"{(1 << 32) - 1} shards, at most {MAX_SHARDS} are possible"


@pytest.mark.parametrize(
    ("encode", "decode"),
    [(encode_placement, decode_placement), (encode_staged_placement, decode_staged_placement)],
    ids=["plain", "staged"],
)
def test_a_stored_placement_of_billions_of_shards(encode: Callable[..., bytes], decode: Callable[..., object]) -> None:
    with pytest.raises(DecodeError, match=TOO_MANY):
        decode(encode(Placement(num_shards=(1 << 32) - 1, is_sharded=True)), 1)
    assert decode(encode(Placement(num_shards=MAX_SHARDS, is_sharded=True)), 1)


async def test_a_new_placement_of_billions_of_shards() -> None:
    store = MemoryServer().client()
    service = PlacementService(store, "e", "s", PlacementOptions())
    with pytest.raises(InvalidPlacementError, match=TOO_MANY):
        await service.init([], (1 << 32) - 1, 1)
    await store.close()


def test_a_topic_of_billions_of_shards() -> None:
    topic = Topic("t", (1 << 32) - 1)
    with pytest.raises(TopicError, match=TOO_MANY):
        validate_topic(topic)
    with pytest.raises(TopicError, match=TOO_MANY):
        decode_topic(encode_topic(topic), 1)
    validate_topic(Topic("t", MAX_SHARDS))


def test_a_static_topology_of_billions_of_shards() -> None:
    with pytest.raises(TopologyError, match=TOO_MANY):
        Topology.static([Host("a", "a:9000")], (1 << 32) - 1)
