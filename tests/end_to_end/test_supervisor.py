"""How the server starts, ends and survives, as a process that is signalled and killed."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from raw_http import RawClient, ask, get, post
from served import EachProcess, Served, ask_on, served

WITH_1_AND_2_WORKERS = pytest.mark.parametrize("workers", [1, 2])
STREAM = post("/stream?name=stream&chunks=8", b"hello")
ENDLESS_STREAM = post("/stream?name=endless&chunks=100000", b"hello")


def eventually(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait for a change in another process that announces itself no other way."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def is_refused(port: int) -> bool:
    try:
        RawClient(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # It met the listener in the act of closing: not yet a refusal, so the next try has to be one.
        return False
    return False


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def serving_pid(server: Served) -> int:
    return ask(server.port, get("/echo")).json["pid"]


def events(said: str) -> list[str]:
    return [json.loads(line)["event"] for line in said.splitlines()]


# The start


def test_one_worker_serves_in_the_process_itself() -> None:
    with served() as server:
        assert serving_pid(server) == server.pid
        assert server.worker_pids() == set()


def test_each_worker_opens_an_app_of_its_own_after_its_fork() -> None:
    with served(workers=2, await_start=False) as server:
        pids = {server.wait_for("opened")["pid"], server.wait_for("opened")["pid"]}
        assert pids == server.worker_pids()


@WITH_1_AND_2_WORKERS
def test_the_first_answer_comes_within_a_second_and_a_half(workers: int) -> None:
    started = time.monotonic()
    with served(workers=workers) as server:
        assert ask(server.port, get("/echo")).status == 200
        assert time.monotonic() - started < 1.5


@WITH_1_AND_2_WORKERS
def test_the_start_is_told_once_with_the_actual_port(workers: int) -> None:
    with served(workers=workers, await_start=False) as server:
        started = server.wait_for("started")
        server.port = started["port"]
        assert started["host"] == "127.0.0.1"
        assert ask(server.port, get("/echo")).status == 200
        server.signal(signal.SIGTERM)
        assert "started" not in events(server.end()[1])


@WITH_1_AND_2_WORKERS
def test_an_app_that_cannot_open_ends_the_command_with_its_reason(workers: int) -> None:
    with served(workers=workers, factory="fails", await_start=False) as server:
        code, said, logged = server.end()
    assert (code, said) == (1, "")
    assert "start failed: ValueError: no such store" in logged


def test_one_worker_of_two_that_cannot_open_ends_the_command(tmp_path: Path) -> None:
    with served(workers=2, factory="opens_once", path=tmp_path / "taken", await_start=False) as server:
        code, said, logged = server.end()
    assert code == 1
    assert [event for event in events(said) if event != "started"] == ["opened", "closed"]
    assert "start failed: FileExistsError" in logged


@WITH_1_AND_2_WORKERS
def test_a_taken_port_ends_the_command_with_its_reason(workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with served(workers=workers, port=port, await_start=False) as server:
            code, said, logged = server.end()
    assert (code, said) == (1, "")
    assert f"start failed: cannot listen on 127.0.0.1:{port}: Address already in use" in logged


def test_localhost_listens_on_every_address_it_means() -> None:
    addresses = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with served(host="localhost") as server:
        for address in addresses:
            with RawClient(server.port, host=str(address)) as client:
                client.send(get("/echo"))
                assert client.read_answer().status == 200


@WITH_1_AND_2_WORKERS
def test_sigterm_while_the_app_opens_ends_the_command_at_once(workers: int) -> None:
    with served(workers=workers, factory="hangs", await_start=False) as server:
        server.wait_for("opening")
        server.signal(signal.SIGTERM)
        assert server.end(timeout_s=2)[0] == 0


# The end


@WITH_1_AND_2_WORKERS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_in_mid_stream_refuses_new_connections_completes_the_stream_and_exits_0(
    workers: int, number: signal.Signals
) -> None:
    with served(workers=workers) as server, RawClient(server.port) as client:
        client.send(STREAM)
        client.read_until(b"\r\n\r\n")
        assert client.read_chunk() == b"chunk 0"
        server.signal(number)
        eventually(lambda: is_refused(server.port), within_s=0.3)
        assert [*iter(client.read_chunk, b"")] == [b"chunk %d" % n for n in range(1, 8)]
        assert client.read_to_close() == b""
        code, said, _ = server.end()
    assert code == 0
    assert events(said).count("closed") == workers


@WITH_1_AND_2_WORKERS
def test_an_idle_server_ends_at_once_though_clients_keep_connections(workers: int) -> None:
    with served(workers=workers) as server, RawClient(server.port) as client:
        client.send(get("/echo"))
        assert client.read_answer().status == 200
        stopped_at = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0
        assert time.monotonic() - stopped_at < 1.0


@WITH_1_AND_2_WORKERS
def test_a_stream_that_outlasts_the_drain_is_cut_and_the_exit_code_is_0(workers: int) -> None:
    with served(workers=workers, limits={"drain_s": 0.3}) as server, RawClient(server.port) as client:
        client.send(ENDLESS_STREAM)
        client.read_until(b"chunk 1\r\n")
        server.signal(signal.SIGTERM)
        assert not client.read_to_close().endswith(b"0\r\n\r\n")
        code, said, logged = server.end()
    assert (code, events(said).count("closed")) == (0, workers)
    assert "calls_cut count=1" in logged


def test_a_call_that_outlasts_the_drain_without_an_answer_is_told_503() -> None:
    with served(limits={"drain_s": 0.2}) as server, RawClient(server.port) as client:
        client.send(post("/wait?name=late", b"hello"))
        eventually(lambda: len(psutil.Process(server.pid).net_connections()) > 1)
        server.signal(signal.SIGTERM)
        answer = client.read_answer()
        assert (answer.status, answer.error_code) == (503, "shutting_down")
        assert server.end()[0] == 0


@WITH_1_AND_2_WORKERS
def test_a_second_signal_cuts_the_drain(workers: int) -> None:
    with served(workers=workers) as server, RawClient(server.port) as client:
        client.send(ENDLESS_STREAM)
        client.read_until(b"chunk 1\r\n")
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server.port))
        server.signal(signal.SIGTERM)
        code, said, _ = server.end(timeout_s=2)
    assert (code, events(said).count("closed")) == (0, workers)


def test_a_signal_to_the_whole_group_still_lets_the_stream_complete() -> None:
    with served(workers=2) as server, RawClient(server.port) as client:
        client.send(STREAM)
        client.read_until(b"chunk 1\r\n")
        for number in (signal.SIGTERM, signal.SIGINT):
            for pid in server.worker_pids():
                psutil.Process(pid).send_signal(number)
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server.port))
        for pid in server.worker_pids():
            # The worker without a stream may have drained and ended by now.
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).send_signal(signal.SIGTERM)
        assert client.read_to_close().endswith(b"chunk 7\r\n0\r\n\r\n")
        assert server.end()[0] == 0


# Reloads


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The file that a server reads its documents from."""
    path = tmp_path / "document"
    path.write_text("first")
    return path


def reload(server: Served, document: Path, text: str) -> None:
    document.write_text(text)
    server.signal(signal.SIGHUP)


@WITH_1_AND_2_WORKERS
def test_sighup_reaches_every_process_within_a_second_and_none_is_replaced(workers: int, document: Path) -> None:
    with served(workers=workers, document=document) as server, EachProcess(server) as each:
        pids = server.worker_pids()
        for text in ("second", "third"):
            reload(server, document, text)
            each.agree_on(text, within_s=1.0)
            server.wait_for_log(f"config_reloaded workers={workers}")
        assert server.worker_pids() == pids
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


@WITH_1_AND_2_WORKERS
def test_a_document_that_is_refused_is_logged_and_the_old_one_stays(workers: int, document: Path) -> None:
    with served(workers=workers, document=document) as server, EachProcess(server) as each:
        reload(server, document, "broken")
        server.wait_for_log("reload_refused reason='document: is broken'")
        each.agree_on("first", within_s=0)
        reload(server, document, "second")
        each.agree_on("second", within_s=1.0)


@WITH_1_AND_2_WORKERS
def test_a_file_that_is_gone_at_a_reload_changes_nothing(workers: int, document: Path) -> None:
    with served(workers=workers, document=document) as server, EachProcess(server) as each:
        document.unlink()
        server.signal(signal.SIGHUP)
        server.wait_for_log('reload_refused reason="FileNotFoundError')
        each.agree_on("first", within_s=0)


@WITH_1_AND_2_WORKERS
def test_a_document_that_no_process_can_follow_is_dropped_and_none_is_replaced(workers: int, document: Path) -> None:
    with served(workers=workers, document=document) as server, EachProcess(server) as each:
        pids = server.worker_pids()
        reload(server, document, "refused by all")
        server.wait_for_log("config_kept" if workers > 1 else "reload_failed")
        each.agree_on("first", within_s=0)
        if workers > 1:
            killed = min(pids)
            psutil.Process(killed).kill()
            assert server.wait_for("opened")["document"] == "first"
            assert server.worker_pids() >= pids - {killed}
        reload(server, document, "second")
        with EachProcess(server) as now:
            now.agree_on("second", within_s=1.0)
        assert server.logged.count("not this one: refused by all") == workers


def test_a_worker_that_cannot_follow_ends_its_calls_and_is_replaced(document: Path, tmp_path: Path) -> None:
    text = f"refused by one PATH {tmp_path / 'taken'}"
    with served(workers=2, document=document) as server, EachProcess(server) as each:
        pids = {*each.documents()}
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(RawClient(server.port)) for _ in range(8)]
            for client in streams:
                client.send(STREAM)
                client.read_until(b"chunk 1\r\n")
            reload(server, document, text)
            opened = server.wait_for("opened")
            assert (opened["document"], opened["pid"] in pids) == (text, False)
            for client in streams:
                assert client.read_to_close_or(b"chunk 7\r\n0\r\n\r\n")
        server.wait_for_log("config_reloaded workers=2")
        eventually(lambda: len(server.worker_pids()) == 2)
        assert len(server.worker_pids() & pids) == 1
        assert server.logged.count("reload_failed") == 1
        with EachProcess(server) as now:
            now.agree_on(text, within_s=0)


def test_a_worker_that_dies_of_a_reload_is_replaced(document: Path, tmp_path: Path) -> None:
    text = f"fatal to one PATH {tmp_path / 'taken'}"
    with served(workers=2, document=document) as server:
        pids = server.worker_pids()
        reload(server, document, text)
        assert server.wait_for("opened")["pid"] not in pids
        server.wait_for_log("config_reloaded workers=2")
        with EachProcess(server) as now:
            now.agree_on(text, within_s=0)


def test_a_worker_that_does_not_answer_to_a_reload_is_killed_and_replaced_and_keeps_no_other(document: Path) -> None:
    with served(workers=2, document=document, reload_s=0.5) as server, EachProcess(server) as each:
        hung, healthy = each.documents()
        psutil.Process(hung).suspend()
        reload(server, document, "second")
        with RawClient(server.port) as client:
            # Only the other one can answer.
            assert ask_on(client)["pid"] == healthy
            eventually(lambda: ask_on(client)["document"] == "second", within_s=0.9)
        opened = server.wait_for("opened")
        assert (opened["pid"] in (hung, healthy), opened["document"]) == (False, "second")
        server.wait_for_log("config_reloaded workers=2")
        assert f"reload_failed pid={hung} reason='it did not answer'" in server.logged
        assert server.worker_pids() == {healthy, opened["pid"]}


def test_a_worker_that_starts_during_a_reload_follows_once_it_serves(document: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with served(workers=2, factory="waits_while_present", path=gate, document=document) as server:
        killed = serving_pid(server)
        gate.touch()
        psutil.Process(killed).kill()
        assert server.wait_for("opening")["document"] == "first"
        reload(server, document, "second")
        eventually(lambda: ask(server.port, get("/echo")).json["document"] == "second", within_s=1.0)
        gate.unlink()
        server.wait_for_log("config_reloaded workers=2")
        with EachProcess(server) as now:
            now.agree_on("second", within_s=0)


@WITH_1_AND_2_WORKERS
def test_a_reload_asked_for_before_the_start_is_over_is_done(workers: int, document: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with served(
        workers=workers, factory="waits_while_present", path=gate, document=document, await_start=False
    ) as server:
        for _ in range(workers):
            server.wait_for("opening")
        reload(server, document, "second")
        gate.unlink()
        server.wait_for_log(f"config_reloaded workers={workers}")
        server.port = server.wait_for("started")["port"]
        with EachProcess(server) as now:
            now.agree_on("second", within_s=0)


@WITH_1_AND_2_WORKERS
def test_of_many_reloads_at_once_the_last_one_stays(workers: int, document: Path) -> None:
    with served(workers=workers, document=document) as server, EachProcess(server) as each:
        pids = server.worker_pids()
        for number in range(100):
            reload(server, document, f"number {number}")
        each.agree_on("number 99", within_s=1.0)
        assert server.worker_pids() == pids


@WITH_1_AND_2_WORKERS
def test_calls_in_flight_run_on_through_a_reload(workers: int, document: Path) -> None:
    with (
        served(workers=workers, document=document) as server,
        EachProcess(server) as each,
        RawClient(server.port) as client,
    ):
        client.send(STREAM)
        client.read_until(b"chunk 1\r\n")
        reload(server, document, "second")
        each.agree_on("second", within_s=1.0)
        assert client.read_to_close_or(b"chunk 7\r\n0\r\n\r\n")


@WITH_1_AND_2_WORKERS
def test_sighup_while_the_server_stops_is_ignored(workers: int, document: Path) -> None:
    with served(workers=workers, document=document, limits={"drain_s": 30}) as server, RawClient(server.port) as client:
        client.send(ENDLESS_STREAM)
        client.read_until(b"chunk 1\r\n")
        server.signal(signal.SIGTERM)
        eventually(lambda: is_refused(server.port))
        reload(server, document, "second")
        server.wait_for_log("reload_ignored reason='the server is stopping'")
        client.read_until(b"chunk")
        server.signal(signal.SIGTERM)
        code, _, logged = server.end()
    assert code == 0
    assert "config_reloaded" not in logged


# Deaths


def test_a_killed_worker_is_replaced() -> None:
    with served(workers=2) as server:
        killed = serving_pid(server)
        psutil.Process(killed).kill()
        eventually(lambda: len(server.worker_pids() - {killed}) == 2)
        server.wait_for("opened")
        assert ask(server.port, get("/echo")).status == 200
        server.signal(signal.SIGTERM)
        code, _, logged = server.end()
    assert code == 0
    assert f"worker_ended pid={killed} reason='a worker ended by itself (signal 9)'" in logged


def test_a_replacement_that_cannot_open_is_tried_again_while_the_other_worker_serves(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    with served(workers=2, factory="fails_while_present", path=obstacle) as server:
        killed = serving_pid(server)
        (other,) = server.worker_pids() - {killed}
        obstacle.touch()
        psutil.Process(killed).kill()
        assert server.process.stderr is not None
        while "reason='ValueError: obstacle is in the way' restart_in_s=" not in server.process.stderr.readline():
            assert server.process.poll() is None
        assert serving_pid(server) == other
        obstacle.unlink()
        assert server.wait_for("opened")["pid"] not in (killed, other)


def test_workers_end_when_their_parent_is_killed() -> None:
    with served(workers=3) as server:
        pids = server.worker_pids()
        assert len(pids) == 3
        server.process.kill()
        eventually(lambda: not any(is_alive(pid) for pid in pids))
        assert is_refused(server.port)


def test_a_hung_worker_does_not_hide_the_parents_death_from_the_others() -> None:
    with served(workers=2) as server:
        first, last = sorted(server.worker_pids())
        psutil.Process(last).suspend()
        try:
            server.process.kill()
            eventually(lambda: not is_alive(first))
        finally:
            psutil.Process(last).kill()


def test_a_worker_that_ignores_the_stop_is_killed_after_the_deadline() -> None:
    with served(workers=2, limits={"drain_s": 0.1, "close_s": 0.1}) as server:
        stopped = serving_pid(server)
        psutil.Process(stopped).suspend()
        server.signal(signal.SIGTERM)
        code, _, logged = server.end(timeout_s=5)
    assert code == 0
    assert f"worker_killed pid={stopped}" in logged
