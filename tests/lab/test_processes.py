"""Processes with a log, and what /proc says of their descendants."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab.errors import LabError
from lab.processes import Process, children, family, running_threads, send_signal, stop
from lab.waiting import wait_until


def test_the_family_of_a_process_has_its_descendants_in_sessions_of_their_own() -> None:
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '60'], start_new_session=True); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        try:
            assert family(process.pid) == [process.pid, grandchild]
            assert grandchild in family(os.getpid())
            send_signal(family(process.pid), signal.SIGSTOP)
            send_signal(family(process.pid), signal.SIGCONT)
        finally:
            send_signal(family(process.pid), signal.SIGKILL)
    assert family(process.pid) == [process.pid]


def test_the_end_of_a_log_tells_why_a_process_has_ended(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['WORD'], file=sys.stderr); sys.exit(3)"
    process = Process("it", [sys.executable, "-c", code], tmp_path / "it.log", env={"WORD": "no luck"})
    assert process.wait(30) == 3
    with pytest.raises(LabError, match=r"it ended with exit code 3; its log .*it\.log ends with:\nno luck"):
        process.check()
    with pytest.raises(LabError, match="exit code 3"):
        process.wait_for_http("http://127.0.0.1:1/")
    assert process.stop() == 3


def test_who_does_not_hear_sigterm_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    process = Process("it", [sys.executable, "-c", code], tmp_path / "it.log")
    wait_until("it is deaf", lambda: "deaf" in process.tail())
    assert children(os.getpid())[process.pid][1] == "-c"
    assert process.stop(0.05) == -signal.SIGKILL
    assert "it did not end within 0.05 s of SIGTERM: killed" in capsys.readouterr().err


def test_a_stopped_process_has_no_thread_that_runs(tmp_path: Path) -> None:
    process = Process("it", ["sleep", "60"], tmp_path / "it.log")
    try:
        assert running_threads(process.pid)
        stop(process.pid)
        assert running_threads(process.pid) == {}
    finally:
        process.kill()
    assert not process.running


def test_a_process_ends_with_the_one_that_asked_for_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys; from lab.processes import Process; "
        "made = Process('it', ['sleep', '60'], pathlib.Path(sys.argv[1]), ends_with_us=True); "
        "print(made.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "it.log")],
        stdout=subprocess.PIPE, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    pid = int(done.stdout)
    gone = Path(f"/proc/{pid}/stat")
    # Its parent is gone, too: whoever adopts it may leave it a zombie.
    wait_until("it has ended", lambda: not gone.exists() or gone.read_text().rpartition(")")[2].split()[0] == "Z")
