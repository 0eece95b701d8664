"""Configuration files: merging, expansion, and every problem named."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3x.config import ConfigError, Duration, Meaningless, Section, check_listeners, load, parse_address


class Retry(Section):
    initial_backoff: Duration = Duration.parse("1s")
    max_retries: int = 2
    jitter: bool = True


class Root(Section):
    name: str
    mode: Literal["fast", "safe"] = "safe"
    ratio: float = 0.5
    retry: Retry = Retry()
    retries: list[Retry] = []
    either: str | Retry | None = None
    pool: Meaningless[list[int]] = None
    buffers: Meaningless[Retry] = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio must be within 0..1, found {self.ratio}")


def write(folder: Path, text: str, name: str = "a.yml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_files_merge_in_order_key_by_key(tmp_path: Path) -> None:
    first = write(tmp_path, "name: one\nretry: {maxRetries: 7, initialBackoff: 100ms}\nretries: [{jitter: false}]\n")
    second = write(tmp_path, "retry: {maxRetries: 3}\nretries: []\n", "b.yml")
    value = load([first, second], Root).value
    assert value.retry == Retry(max_retries=3, initial_backoff=Duration.parse("100ms"))
    assert value.retries == []
    assert value.name == "one"


@pytest.mark.parametrize(
    ("text", "said"), [(None, "cannot be read: No such file or directory"), ("a: [", "not valid YAML")]
)
def test_of_files_that_cannot_be_read_no_key_is_missing(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "a.yml" if text is None else write(tmp_path, text)
    with pytest.raises(ConfigError, match=said) as error:
        load([path], Root)
    assert str(error.value).count("a.yml") == 1


def test_environment_is_expanded_with_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "name: ${HOST:nobody}\nmode: ${MODE}\n")
    assert load([path], Root, {"MODE": "fast"}).value == Root(name="nobody", mode="fast")
    with pytest.raises(ConfigError, match=r"a.yml:2: mode: \$\{MODE\} is not set"):
        load([path], Root, {})


def test_every_problem_is_named_with_file_line_and_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "mode: slow\nratio: much\nretry:\n  maxRetry: 1\n  initialBackoff: 10 apples\nretries:\n- jitter: 3\nwhatever: 1\n",
    )
    with pytest.raises(ConfigError) as caught:
        load([path], Root)
    problems = "\n".join(caught.value.problems)
    assert f"{path}:1: mode:" in problems
    assert f"{path}:2: ratio:" in problems
    assert f"{path}:4: retry.maxRetry: unknown key; did you mean 'maxRetries'?" in problems
    assert f"{path}:5: retry.initialBackoff: '10 apples' is not a duration" in problems
    assert f"{path}:7: retries[0].jitter:" in problems
    assert f"{path}:8: whatever: unknown key" in problems
    assert "name: this key is required and missing" in problems
    assert len(caught.value.problems) == 7


def test_impossible_values_and_duplicates_are_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ratio must be within"):
        load([write(tmp_path, "name: a\nratio: 2\n")], Root)
    with pytest.raises(ConfigError, match="key 'name' is given twice"):
        load([write(tmp_path, "name: a\nname: b\n")], Root)


def test_a_choice_names_what_may_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("name: a\nmode: slow\n")
    with pytest.raises(ConfigError, match="a.yml:2: mode: expected one of 'fast', 'safe' \\(found 'slow'\\)"):
        load([tmp_path / "a.yml"], Root)


def test_text_fields_take_what_yaml_reads_as_another_type(tmp_path: Path) -> None:
    assert load([write(tmp_path, "name: 0600\n")], Root).value.name == "384"
    assert load([write(tmp_path, "name: '0600'\n")], Root).value.name == "0600"
    assert load([write(tmp_path, "name: no\n")], Root).value.name == "false"


def test_unions_choose_by_shape(tmp_path: Path) -> None:
    assert load([write(tmp_path, "name: a\neither: text\n")], Root).value.either == "text"
    assert load([write(tmp_path, "name: a\neither: {maxRetries: 9}\n")], Root).value.either == Retry(max_retries=9)
    with pytest.raises(ConfigError, match="either.maxRetries"):
        load([write(tmp_path, "name: a\neither: {maxRetries: x}\n")], Root)


def test_keys_without_meaning_are_listed(tmp_path: Path) -> None:
    text = "name: a\npool: [1, 2]\nbuffers: {maxRetries: 2}\n"
    assert load([write(tmp_path, text)], Root).meaningless == ["pool", "buffers"]
    with pytest.raises(ConfigError, match=r"buffers.maxRetry: unknown key; did you mean 'maxRetries'"):
        load([write(tmp_path, "name: a\nbuffers: {maxRetry: 2}\n")], Root)


@pytest.mark.parametrize("text", ["a: [", "\t- x", "- a list", "a: &x [*x]", "just text"])
def test_broken_files_are_one_clear_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load([write(tmp_path, text)], Root)
    assert str(tmp_path) in caught.value.problems[0]
    assert "\n" not in caught.value.problems[0]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yml: cannot be read: No such file"):
        load([tmp_path / "none.yml"], Root)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("10s", 10**10),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        ("-2ms", -2_000_000),
        ("3us", 3000),
        ("0s", 0),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert Duration.parse(text) == ns


@given(st.text(max_size=8))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert isinstance(Duration.parse(text), int)
    except ValueError as error:
        assert "is not a duration" in str(error)


def test_addresses() -> None:
    assert parse_address("0.0.0.0:6000") == ("0.0.0.0", 6000)
    assert parse_address(":80") == ("0.0.0.0", 80)
    assert parse_address("[::1]:80") == ("::1", 80)
    for text in ("localhost", "a:b", "a:70000", ""):
        with pytest.raises(ValueError, match="expected host:port"):
            parse_address(text)


def test_where_sections_stand_is_kept_through_merging(tmp_path: Path) -> None:
    first = write(
        tmp_path, "name: one\nretry:\n  maxRetries: 7\nretries:\n- jitter: true\n- jitter: false\neither: {}\n"
    )
    second = write(tmp_path, "\nretries:\n\n- maxRetries: 1\n", "b.yml")
    places = load([first, second], Root).places
    assert {path: Path(place).name for path, place in places.items()} == {
        "": "b.yml:2",
        "name": "a.yml:1",
        "retry": "a.yml:2",
        "retry.maxRetries": "a.yml:3",
        "retries": "b.yml:2",
        "retries[0]": "b.yml:4",
        "retries[0].maxRetries": "b.yml:4",
        "either": "a.yml:7",
    }
    assert places.named("retries[0].jitter", "is odd") == f"{second}:4: retries[0].jitter: is odd"
    assert places.named("retry", "too many") == f"{first}:2: retry: too many"
    assert places.named("pool", "unknown") == "pool: unknown"


def test_two_listeners_on_one_port_are_named() -> None:
    check_listeners({"a": "127.0.0.1:1", "b": "127.0.0.2:1", "c": "0.0.0.0:0", "d": ":0", "e": ""})
    for other in ("127.0.0.1:1", "0.0.0.0:1", ":1", "[::]:1"):
        with pytest.raises(ValueError, match="a and b must differ: both listen on port 1"):
            check_listeners({"a": "127.0.0.1:1", "b": other})
