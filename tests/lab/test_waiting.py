"""Who waits in vain is told for what."""

import pytest
from lab.errors import LabError
from lab.waiting import until, wait_aloud, wait_until


async def test_a_function_or_a_coroutine_function_is_asked_until_it_is_true() -> None:
    left = [0, "", "there"]

    async def asked() -> object:
        return left.pop(0)

    assert await until(asked) == "there"
    assert await until(lambda: 7) == 7


async def test_the_reason_of_a_wait_in_vain_is_said() -> None:
    with pytest.raises(TimeoutError, match=r"the door opens: not within 0\.05 s \(last: 0\)"):
        await until(lambda: 0, 0.05, what="the door opens")
    with pytest.raises(TimeoutError, match=r"the condition of .*test_waiting\.py:\d+: not within"):
        await until(lambda: None, 0.05)


def test_errors_of_connections_count_as_not_yet() -> None:
    answers = [ConnectionRefusedError("nobody"), None, "yes"]

    def ask() -> object:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert wait_until("an answer", ask, every_s=0.001) == "yes"
    with pytest.raises(TimeoutError, match="an answer: not within"):
        wait_until("an answer", lambda: "", 0.05)


def test_what_is_missing_is_said_once_whatever_time_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    rounds = [["a cutover in 3 s", "a leader"], ["a cutover in 2 s", "a leader"], ["a leader", "a leader"], []]
    wait_aloud(lambda: rounds.pop(0), 10, every_s=0.001)
    assert capsys.readouterr().out == "  waiting for a cutover in 3 s; a leader\n  waiting for a leader\n"
    with pytest.raises(LabError, match=r"not serving after 0.01 s; still waiting for a leader"):
        wait_aloud(lambda: ["a leader"], 0.01, every_s=0.001)
