"""What configuration files mean: as real M3's loader has it, for every key and every form of a value.

Compared is what the reader makes of the keys (``Reading.given``), and whether it takes the files. Error texts are ours. Where the outcome
differs on purpose (docs/compatibility.md, configuration), a rule on the input says so below.
"""

import base64
import math
import re
import typing
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest
import yaml
from lab.configuration_reference import SERVICES, keys, own_keys, places
from tests.golden.vectors import Vector, cases, lines

from m3metrics.aggregation import parse_type
from m3metrics.policy import StoragePolicy
from m3metrics.sections import AggregationName, PolicyText
from m3msg.producer.filters import ShardSetFilter
from m3x.config import Duration, Section, read
from m3x.config.loading import Reading
from m3x.pools import PoolSize

ALL_KEYS = 1665
"""Of the real one; a set of vectors may have fewer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def reading(vector: Vector, folder: Path) -> Reading[Section]:
    """Our reader on the files of a vector."""
    files = []
    for index, text in enumerate(vector["files"]):
        path = folder / f"{index}.yml"
        path.write_bytes(base64.b64decode(text) if vector.get("b64") else text.encode())
        files.append(path)
    return read(files, SERVICES[vector["service"]], vector.get("env", {}))


def nested(path: str, leaf: Any) -> Any:
    """``a[].b{}`` → a document in which only that key is given."""
    head, _, rest = path.partition(".")
    value = nested(rest, leaf) if rest else leaf
    for mark in reversed(re.findall(r"\[\]|\{\}", head)):
        value = [value] if mark == "[]" else {"k1": value}
    return {head.rstrip("[]{}"): value}


def judged(service: str, path: str, leaf: Any, folder: Path) -> Reading[Section]:
    """Our reader on a file in which only ``path`` is given."""
    text = yaml.safe_dump(nested(path, leaf))
    return reading({"service": service, "files": [text]}, folder)


def taken(service: str, path: str, leaf: Any, folder: Path) -> bool:
    """Whether there is no problem with that key."""
    found = judged(service, path, leaf, folder)
    about = path.replace("[]", "[0]").replace("{}", ".k1") + ": "
    problems = [one.text for one in [*found.malformed, *found.refused] if one.text.startswith(about)]
    # What is an aggregation type but cannot be for counters, timers or gauges M3 refuses when it computes the first one. A client
    # of type tcp it reads as well, and refuses when it makes one.
    on_purpose = ("is not possible for this metric type", "unknown client type: tcp")
    return all(any(why in text for why in on_purpose) for text in problems)


@pytest.mark.parametrize("vector", cases("config/keys.jsonl", "path"))
def test_every_key_is_taken_with_values_of_its_kind(vector: Vector, folder: Path) -> None:
    service, path, kind = vector["service"], vector["path"], vector["kind"]
    assert not judged(service, path, None, folder).malformed
    if kind in ("any", "func") or "own_unmarshal_yaml" in vector or "unmarshal_text" in vector:
        return
    like = {
        "struct": {}, "map": {}, "list": [], "string": "qq", "bool": True, "int": 1, "uint": 1, "float": 0.5, "duration": "1s",
        "time": "2020-01-02T03:04:05Z",
    }  # fmt: skip
    assert not judged(service, path, like[kind], folder).malformed
    unlike = {"struct": [1], "map": [1], "list": {"k1": 1}}.get(kind, [[1]])
    assert not taken(service, path, unlike, folder)
    if kind not in ("string", "struct", "map", "list"):
        assert not taken(service, path, "qq", folder)


@pytest.mark.parametrize(
    "vector", [case for case in cases("config/keys.jsonl", "path") if "accepted" in case.values[0]]
)
def test_every_choice_is_taken_and_no_other(vector: Vector, folder: Path) -> None:
    service, path = vector["service"], vector["path"]
    for choice in vector["accepted"]:
        assert taken(service, path, choice["text"], folder), choice
    assert not taken(service, path, "qq-not-a-value", folder)
    assert taken(service, path, "", folder) == vector["empty_text"].startswith("ok")


@pytest.mark.parametrize("vector", cases("config/keys_check.jsonl", "service", "path"))
def test_keys_are_spelled_as_m3_spells_them(vector: Vector, folder: Path) -> None:
    found = judged(vector["service"], vector["path"], None, folder)
    assert (not found.malformed) == vector["accepted"]


@pytest.mark.parametrize("vector", cases("config/load.jsonl", "id", "kind"))
def test_files_mean_what_m3_makes_of_them(vector: Vector, folder: Path) -> None:
    found = reading(vector, folder)
    problems = [*found.malformed, *found.refused]
    if dangerous(vector):
        assert problems
        return
    literal = text_in_quotes(vector)
    if not vector["ok"]:
        if literal is not None and literal in found.given.values():
            assert not found.malformed
        elif not (too_long(vector) or has_default(vector)):
            assert problems
        return
    assert found.malformed == []
    for path, expected in vector["values"].items():
        where = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path)
        if literal is not None and expected != literal and isinstance(found.given.get(where), str):
            assert found.given[where] == literal
        else:
            assert same(expected, where, found, SERVICES[vector["service"]]), (path, found.given.get(where))


def dangerous(vector: Vector) -> bool:
    """Refused here: M3's outcome depends on what else is in the files, or on nothing that they say."""
    files = [re.sub(r"(^|\s)#.*", "", file) for file in vector["files"] if not vector.get("b64")]
    unclosed = any(re.search(r"(?<!\$)(\$\$)*\$\{[^}\n]*(\n|$)", file) for file in files)
    added = (
        any(re.search(r"\n\S", value) for value in vector.get("env", {}).values()) and text_in_quotes(vector) is None
    )
    undone = any(file.strip() in ("---", "null", "~") for file in files[1:])
    return unclosed or added or undone


def text_in_quotes(vector: Vector) -> str | None:
    """What stands in quotes with variables in it, which is text here: M3 reads it as if there were no quotes. A value that has quotes of
    its own loses these, as there."""
    for quoted in re.findall(
        r""": *("[^"\\\n]*\$\{\w+\}[^"\\\n]*"|'[^'\n]*\$\{\w+\}[^'\n]*') *$""", "\n".join(vector["files"]), re.M
    ):
        env = vector.get("env", {})
        values = [env.get(name, "") for name in re.findall(r"\$\{(\w+)\}", quoted)]
        if not any(value[:1] in tuple("'\"") for value in values if value):
            return "".join(
                part if index % 2 == 0 else env.get(part, "")
                for index, part in enumerate(re.split(r"\$\{(\w+)\}", quoted[1:-1]))
            )
    return None


def too_long(vector: Vector) -> bool:
    """M3 has no room for values of more than 4096 bytes."""
    return any(len(value.encode()) > 4096 for value in vector.get("env", {}).values())


DEFAULTED = {
    "metrics": ["samplingRate"],
    "runtimeOptions": ["writeValuesPerMetricLimitPerSecondKey", "writeNewMetricLimitClusterPerSecondKey"],
    "placementWatcher": ["key"],
    "placementManager": ["placementWatcher"],
    "flushTimesManager": ["flushTimesKeyFmt"],
    "electionManager": ["electionKeyFmt"],
}
"""Sections, and keys in them that have a default here and none in M3."""


def has_default(vector: Vector) -> bool:
    """Whether a key is left out that M3 wants, and that has a default here."""

    def lacks(tree: Any) -> bool:
        if not isinstance(tree, dict):
            return False
        return any(
            isinstance(section, dict)
            and (any(section.get(key) is None for key in DEFAULTED.get(name, ())) or lacks(section))
            for name, section in tree.items()
        )

    try:
        return any(lacks(yaml.safe_load(file)) for file in vector["files"])
    except (yaml.YAMLError, ValueError):
        return False


def same(expected: Any, path: str, found: Reading[Section], cls: type[Section]) -> bool:
    """Whether a key is given what M3 makes of it. What is empty there is not given, or empty too."""
    given = found.given.get(path)
    match expected:
        case {"struct_nonzero": fields}:
            return all(same(value, f"{path}.{key}", found, cls) for key, value in fields.items()) and not [
                key
                for key, value in found.given.items()
                if key.startswith(f"{path}.") and value and key[len(path) + 1 :].partition(".")[0] not in fields
            ]
        case {"nil": _}:
            return path not in found.given
        case {"map": entries}:
            return isinstance(given, dict) and plain(given) == {"map": entries}
        case {"duration_ns": ns}:
            return (given or 0) == ns and (given is None or isinstance(given, Duration))
        case {"float": number}:
            return same_number(float(number), given)
        case {"time": text} | {"text": text}:
            return same_text(text, given, path, cls)
        case {"set": shards}:
            return ShardSetFilter.parse(given).shards == frozenset(shards)
        case {"set_size": size}:
            return len(ShardSetFilter.parse(given).shards) == size
        case [*items]:
            return (
                isinstance(given, list)
                and len(given) == len(items)
                and all(same(item, f"{path}[{index}]", found, cls) for index, item in enumerate(items))
            )
        case None | "" | 0 | False:
            return not given
    if isinstance(given, PoolSize):
        return expected == (-1 if given == "dynamic" else int(given))
    return type(expected) is type(plain(given)) and expected == given


def plain(value: Any) -> Any:
    """A value as the vectors write those of any type."""
    if isinstance(value, dict):
        return {
            "map": {
                key if isinstance(key, str) else f"{type(key).__name__}:{key}": plain(v) for key, v in value.items()
            }
        }
    if isinstance(value, list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def same_number(expected: float, given: Any) -> bool:
    return (math.isnan(expected) and math.isnan(given)) or (given or 0.0) == expected


def same_text(expected: str, given: Any, path: str, cls: type[Section]) -> bool:
    """Choices, policies and aggregation types: M3's canonical text. What is not given is the first of the choices."""
    hint = hint_of(cls, path)
    if given is None:
        return expected in ("", *get_args(hint)[:1])
    if hint is AggregationName:
        return parse_type(given).text == expected
    if hint is PolicyText:
        return str(StoragePolicy.parse(given)) == expected
    return bool(given == expected)


def hint_of(cls: Any, path: str) -> Any:
    """The type of a key, without marks."""
    hint: Any = cls
    for key, _, index in (re.fullmatch(r"(\w+)((\[\d+\])?)", part).group(1, 2, 3) for part in path.split(".")):  # type: ignore[union-attr]
        field = next(field for field in msgspec.structs.fields(bare(hint)) if field.encode_name == key)
        hint = bare(typing.get_type_hints(bare(hint), include_extras=True)[field.name])
        if index:
            hint = bare(get_args(hint)[0])
    return hint


def bare(hint: Any) -> Any:
    while get_origin(hint) is Annotated or type(None) in get_args(hint):
        hint = get_args(hint)[0]
    return hint


def test_the_reference_says_whose_each_key_is() -> None:
    """docs/configuration.md: what M3 has in no place is ours; a section of M3 may stand in other places as well."""
    listed = list(lines("config/keys.jsonl"))
    of_m3 = {(one["service"], one["path"]) for one in listed}
    found: dict[str, bool] = {}
    for service, root in SERVICES.items():
        for section, paths in places(root).items():
            for key in keys(section):
                known = any((service, f"{path}.{key.name}".lstrip(".")) in of_m3 for path in paths)
                found[key.id] = found.get(key.id, False) or known
    assert not [key for key in own_keys() if found[key]]
    if len(listed) >= ALL_KEYS:
        assert {key for key, is_m3s in found.items() if not is_m3s} == own_keys(), "lab/own_keys.txt"
