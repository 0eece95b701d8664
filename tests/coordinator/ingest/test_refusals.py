"""What is remembered of values that were not stored: for how long, how much of it, and in which words."""

from coordinator.ingest.refusals import RefusalReason, Refusals
from m3metrics.ids import encode_tags
from m3metrics.policy import StoragePolicy

SECOND = 10**9
METRIC = encode_tags([(b"__name__", b"requests"), (b"code", b"200")])


def homeless(refusals: Refusals, policy: str, now_s: int, messages: int = 1) -> None:
    refusals.note(
        RefusalReason.NO_NAMESPACE, messages, now_s * SECOND, error="no namespace", metric=METRIC, peer="agg01:5000",
        policy=StoragePolicy.parse(policy),
    )  # fmt: skip


def test_a_line_names_policy_metric_sender_and_rule() -> None:
    refusals = Refusals(lambda policy: ["rollup rule 'by code'"] if str(policy) == "10s:31d" else [])
    homeless(refusals, "10s:31d", 1, 2)
    homeless(refusals, "10s:31d", 2, 3)
    homeless(refusals, "1m:31d", 5)
    other, named = refusals.problems(7 * SECOND)
    assert named.startswith(
        "ingest: 5 messages of policy 10s:31d not stored, the last one 5s ago from agg01:5000, like "
        "requests{code=\"200\"}: no namespace; asked for by rollup rule 'by code'; add the namespace"
    )
    assert "asked for by" not in other


def test_an_id_that_cannot_be_read_is_left_out() -> None:
    refusals = Refusals()
    refusals.note(RefusalReason.DECODE_ERROR, 1, SECOND, error="unexpected EOF", peer="p")
    (line,) = refusals.problems(SECOND)
    assert "from p: unexpected EOF; is the sender" in line


def test_a_problem_ends_minutes_after_its_last_value_and_then_begins_anew() -> None:
    refusals = Refusals()
    homeless(refusals, "10s:31d", 0)
    homeless(refusals, "1h:31d", 0)
    assert len(refusals.problems(300 * SECOND)) == 2
    (hourly,) = refusals.problems(301 * SECOND)
    assert "1h:31d" in hourly
    assert refusals.problems(3 * 3600 * SECOND + 1) == []
    homeless(refusals, "10s:31d", 20_000)
    assert refusals.problems(20_000 * SECOND)[0].startswith("ingest: 1 message of policy")


def test_each_kind_is_logged_at_first_and_then_once_a_minute() -> None:
    refusals = Refusals()
    known = refusals.note(RefusalReason.BAD_ID, 1, 0, error="x")
    assert [refusals.to_be_logged(known, s * SECOND) for s in (0, 1, 59, 60, 61)] == [True, False, False, True, False]


def test_however_many_policies_come_memory_and_lines_are_bounded() -> None:
    refusals = Refusals()
    for hours in range(1, 3000):
        homeless(refusals, f"10s:{hours}h", 1)
    lines = refusals.problems(SECOND)
    assert lines[-1] == "ingest: values are not stored for 981 more reasons or storage policies"
    assert len(lines) == 21


def test_long_ids_and_errors_are_cut() -> None:
    refusals = Refusals()
    metric = encode_tags([(b"__name__", b"n"), (b"long", b"x" * 60_000)])
    refusals.note(RefusalReason.BAD_ID, 1, 0, error="y" * 60_000, metric=metric)
    (line,) = refusals.problems(0)
    assert "like n{…}: yyy" in line
    assert len(line) < 2000
