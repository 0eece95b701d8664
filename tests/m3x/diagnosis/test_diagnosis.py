"""Stacks and profiles of this process and of a child, over HTTP."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

import httpx
import pytest
from lab.processes import stop
from starlette.applications import Starlette

from m3x import log
from m3x.diagnosis import sampling, stacks
from m3x.diagnosis.routes import debug_routes

CHILD = """
import sys, time
from m3x.diagnosis.stacks import register_child
def busy_loop():
    while True:
        sum(range(1000))
def outer():
    busy_loop()
register_child()
print("up", flush=True)
outer()
"""


@pytest.fixture(scope="module")
def child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


@pytest.fixture
async def http(child: int) -> httpx.AsyncClient:
    def processes() -> Mapping[str, int]:
        return {"worker 0": child, "worker 1": 0}

    app = Starlette(routes=debug_routes("service", processes, lambda: {"lists": ["a"], "readiness": {"ready": True}}))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=120)


async def inner_wait(event: asyncio.Event) -> None:
    await event.wait()


async def outer_wait(event: asyncio.Event) -> None:
    await inner_wait(event)


async def test_stacks_name_threads_tasks_and_children(http: httpx.AsyncClient, child: int) -> None:
    event, ended = asyncio.Event(), threading.Event()
    task = asyncio.create_task(outer_wait(event), name="the task")
    thread = threading.Thread(target=ended.wait, name="the thread")
    thread.start()
    await asyncio.sleep(0)
    try:
        text = (await http.get("/debug/stacks")).text
    finally:
        ended.set()
        event.set()
        await task
        thread.join()
    assert '"the thread"' in text
    place = text[text.index('task "the task"') :]
    assert place.index("in outer_wait") < place.index("in inner_wait")
    assert f"=== worker 0, process {child}" in text
    assert "in busy_loop" in text
    assert "worker 1" not in text


async def test_stacks_of_one_process(http: httpx.AsyncClient) -> None:
    text = (await http.get("/debug/stacks", params={"process": "worker 0"})).text
    assert text.startswith("=== worker 0")
    assert text.index("in busy_loop") < text.index("in outer")
    assert "=== service" not in text


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "/debug/stacks?process=worker%202",
            "there is no process 'worker 2'; expected one of service, worker 0, worker 1",
        ),
        ("/debug/stacks?process=worker%201", "worker 1 is not running"),
        ("/debug/profile?seconds=0", "seconds must be a number above 0, and 300 at most"),
        ("/debug/profile?seconds=nan", "seconds must be"),
        ("/debug/profile?seconds=301", "seconds must be"),
        ("/debug/profile?hertz=fast", "hertz must be"),
    ],
)
async def test_what_cannot_be_answered_is_said(http: httpx.AsyncClient, path: str, said: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 400
    assert said in answer.text


async def test_a_profile_of_a_child_says_where_it_is(http: httpx.AsyncClient) -> None:
    answer = await http.get("/debug/profile", params={"process": "worker 0", "seconds": 0.5, "hertz": 50})
    lines = [line.rsplit(" ", 1) for line in answer.text.splitlines()]
    assert all(line[0].endswith(":outer;<string>:busy_loop") for line in lines)
    assert sum(int(line[1]) for line in lines) >= 1


async def test_a_profile_of_the_service_has_its_threads(http: httpx.AsyncClient) -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="the thread")
    thread.start()
    try:
        text = (await http.get("/debug/profile", params={"seconds": 0.2})).text
    finally:
        ended.set()
        thread.join()
    (found,) = [line for line in text.splitlines() if line.startswith("the thread;")]
    assert found.rsplit(" ", 1)[0].endswith("threading:Condition.wait")
    assert int(found.rsplit(" ", 1)[1]) >= 1


async def test_one_profile_at_a_time(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.get("/debug/profile", params={"seconds": 1}) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_the_state_has_what_every_service_has_and_its_own(http: httpx.AsyncClient, child: int) -> None:
    found = (await http.get("/debug/state")).json()
    assert found["service"] == "service"
    assert found["lists"] == ["a"]
    assert found["processes"]["worker 0"]["pid"] == child
    assert found["residentBytes"] > 1 << 20
    assert found["tasks"] >= 1


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_the_level_of_the_log_is_set(
    http: httpx.AsyncClient, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await http.get("/debug/log-level")).text == "info\n"
    assert (await http.request(method, "/debug/log-level?level=debug")).text == "debug\n"
    log.logger("x").debug("shown")
    assert "shown" in capsys.readouterr().err
    answer = await http.request(method, "/debug/log-level?level=loud")
    assert answer.status_code == 400
    assert "unknown log level 'loud'" in answer.text
    assert (await http.get("/debug/log-level")).text == "debug\n"


async def test_a_child_that_is_stopped_is_told_from_one_that_answers(
    monkeypatch: pytest.MonkeyPatch, child: int
) -> None:
    monkeypatch.setattr(stacks, "_PATIENCE_S", 0.05)
    stop(child)
    try:
        with pytest.raises(stacks.NoStacksError, match="does not answer"):
            await stacks.ChildStacks(child).now()
    finally:
        os.kill(child, signal.SIGCONT)


def test_a_process_without_stacks_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        with pytest.raises(stacks.NoStacksError, match="not there"):
            stacks.ChildStacks(other.pid)
        other.kill()


def test_dumps_are_counted() -> None:
    dump = (
        'Thread 0x00007f01 (most recent call first):\n  File "/a/b/poll.py", line 3 in wait\n  File "/a/main.py", line 9 in <module>\n\n'
        'Current thread 0x00007f02 (most recent call first):\n  File "/a/b/work.py", line 5 in f g\n'
    )
    found = sampling.read_dumps(dump + dump)
    assert found == Counter({"0x00007f01;a/main:<module>;b/poll:wait": 2, "0x00007f02;b/work:f_g": 2})
    assert sampling.collapsed(found).splitlines()[0].endswith(" 2")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGABRT])
def test_a_service_says_where_it_is_when_it_is_asked_and_when_it_dies_of_a_watchdog(number: signal.Signals) -> None:
    script = (
        "import time\nfrom m3x.diagnosis.stacks import register_service\nregister_service()\n"
        "def hung():\n    print(1, flush=True)\n    time.sleep(600)\nhung()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stderr is not None
        service.stdout.readline()
        service.send_signal(number)
        said = b""
        while b"in hung" not in said:
            line = service.stderr.readline()
            assert line, said
            said += line
        if number == signal.SIGUSR1:
            assert service.poll() is None
            service.kill()
        else:
            assert service.wait(60) == -signal.SIGABRT


def test_a_level_reaches_children_that_are_forked(tmp_path: object) -> None:
    script = (
        "import os, sys\nfrom m3x import log\nlog.share_level()\nready, go = os.pipe(), os.pipe()\n"
        "if os.fork() == 0:\n    log.configure('info', process='child')\n    os.write(ready[1], b'x')\n    os.read(go[0], 1)\n"
        "    log.logger('c').debug('heard')\n    os._exit(0)\n"
        "os.read(ready[0], 1)\nlog.set_level('debug')\nos.write(go[1], b'x')\nos.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert '"heard"' in done.stderr
