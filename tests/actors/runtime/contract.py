"""What every `Runtime` promises, as tests; an adapter's tests subclass `RuntimeContract` and give a `Node`.

Knows the port only, never an adapter's files or processes.
"""

import asyncio
import signal

import pytest

from actors.runtime.errors import InstanceNotFound, InstanceStillRunning, InvalidSpec
from actors.runtime.port import ExitCause, InstanceKind, InstanceState, Runtime
from actors.runtime.probe import HttpProbe, TcpProbe, wait_ready
from tests.actors.runtime.instances import DEADLINE_SECONDS, PYTHON, Node, runs, script
from tests.actors.runtime.limits_contract import LimitsContract


class RuntimeContract(LimitsContract):
    """Subclass it and define the fixture `node`."""

    async def test_started_twice_it_is_one_instance(self, node: Node, runtime: Runtime) -> None:
        first = await runtime.start(self.spec(node, "sleep 60"))
        second = await runtime.start(self.spec(node, "sleep 60"))

        assert first.state is InstanceState.RUNNING
        assert (second.pid, second.started_at) == (first.pid, first.started_at)
        assert [each.instance_id for each in await runtime.list()] == ["one"]

    async def test_started_twice_at_once_it_is_one_instance(self, node: Node, runtime: Runtime) -> None:
        statuses = await asyncio.gather(*(runtime.start(self.spec(node, "sleep 60")) for _ in range(5)))

        assert len({status.pid for status in statuses}) == 1

    async def test_an_instance_that_is_over_is_never_started_again(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "true"))
        ended = await self.over(runtime)

        assert await runtime.start(self.spec(node, "true")) == ended

    async def test_stop_may_be_repeated(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "sleep 60"))

        first = await runtime.stop("one")
        second = await runtime.stop("one")

        assert first == second
        assert (first.state, first.cause, first.signal) == (InstanceState.EXITED, ExitCause.STOPPED, signal.SIGTERM)

    async def test_an_unknown_instance_is_said_to_be_unknown(self, runtime: Runtime) -> None:
        with pytest.raises(InstanceNotFound):
            await runtime.status("nobody")
        with pytest.raises(InstanceNotFound):
            await runtime.stop("nobody")
        await runtime.remove("nobody")

    @pytest.mark.parametrize("bad", ["../x", "a/b", "", "A", "x" * 200, "a\0b"])
    async def test_an_id_that_could_name_another_place_is_refused(self, node: Node, runtime: Runtime, bad: str) -> None:
        with pytest.raises(InvalidSpec):
            await runtime.start(self.spec(node, "true", instance_id=bad))
        assert await runtime.list() == []

    async def test_output_is_kept_while_nobody_reads(self, node: Node, runtime: Runtime) -> None:
        text = """
import sys
for i in range(50_000): print('line', i)
print('to stderr', file=sys.stderr)
print(end='tail')
"""
        await runtime.start(self.spec(node, script(node.artifact, "talk.py", text), kind=InstanceKind.TASK))
        await self.over(runtime)

        lines = await runtime.last_lines("one", 60_000)
        assert [line for line in lines if line.startswith("line")] == [f"line {i}" for i in range(50_000)]
        assert {"to stderr", "tail"} <= set(lines)
        assert len(await runtime.last_lines("one", 3)) == 3

    async def test_a_very_long_line_comes_back_whole(self, node: Node, runtime: Runtime) -> None:
        text = "print('x' * 100_000)\nprint()\nprint('after')"
        await runtime.start(self.spec(node, script(node.artifact, "long.py", text), kind=InstanceKind.TASK))
        await self.over(runtime)

        assert await runtime.last_lines("one", 10) == ["x" * 100_000, "", "after"]

    async def test_the_exit_code_is_reported(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "exit 7", kind=InstanceKind.TASK))
        ended = await self.over(runtime)

        assert (ended.state, ended.cause, ended.exit_code) == (InstanceState.EXITED, ExitCause.EXITED, 7)
        assert ended.signal is None and ended.pid is None and "7" in ended.reason

    async def test_the_signal_is_reported(self, node: Node, runtime: Runtime) -> None:
        text = "import os\nos.kill(os.getpid(), 11)"
        await runtime.start(self.spec(node, script(node.artifact, "fault.py", text)))
        ended = await self.over(runtime)

        assert (ended.exit_code, ended.signal) == (None, signal.SIGSEGV)
        assert "SIGSEGV" in ended.reason

    async def test_a_crash_is_told_to_watchers_at_once(self, node: Node, runtime: Runtime) -> None:
        watch = runtime.watch()
        await runtime.start(self.spec(node, "sleep 60"))
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert [each.state for each in await anext(watch)] == [InstanceState.RUNNING]

            loop = asyncio.get_running_loop()
            began = loop.time()
            await runtime.signal("one", signal.SIGKILL)
            (ended,) = await anext(watch)

        assert (ended.state, ended.signal) == (InstanceState.EXITED, signal.SIGKILL)
        assert loop.time() - began < 1.0  # some milliseconds on an idle machine

    async def test_a_command_may_be_any_shell_line(self, node: Node, runtime: Runtime) -> None:
        command = "A=1 B='two words' sh -c 'echo $A,$B' && cd / && pwd > $HOME/where && cat $HOME/where; exit 3"
        await runtime.start(self.spec(node, command, kind=InstanceKind.TASK))

        assert (await self.over(runtime)).exit_code == 3
        assert await runtime.last_lines("one") == ["1,two words", "/"]

    async def test_a_restarted_platform_adopts_whatruns(self, node: Node, runtime: Runtime) -> None:
        before = await runtime.start(self.spec(node, "sleep 60", wants_port=True))
        fresh = await node.platform()

        assert await fresh.list() == [before]
        watch = fresh.watch()
        await fresh.signal("one", signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_SECONDS):
            assert [each.signal for each in await anext(watch)] == [signal.SIGKILL]

    async def test_what_ended_while_the_platform_was_away_is_known(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "exit 5", instance_id="gone"))
        await self.over(runtime, "gone")
        fresh = await node.platform()

        assert [(each.instance_id, each.exit_code) for each in await fresh.list()] == [("gone", 5)]
        assert (await fresh.spec("gone")).command == "exit 5"

    async def test_stop_leaves_no_process_of_the_tree(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()  # leaves the group and the session
    if os.fork() == 0:
        os.write(1, b'grandchild %d\\n' % os.getpid())  # one write each: lines of two processes stay apart
        time.sleep(600)
    os._exit(0)
os.write(1, b'ready\\n')
time.sleep(600)
"""
        await runtime.start(self.spec(node, script(node.artifact, "tree.py", text)))
        lines = await self.says(runtime, "grandchild")
        (grandchild,) = (int(line.split()[1]) for line in lines if line.startswith("grandchild"))
        await self.says(runtime, "ready")

        ended = await runtime.stop("one", 0.2)

        assert ended.signal == signal.SIGKILL
        assert not runs(grandchild)

    async def test_what_a_crashed_instance_left_behind_is_ended(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, time
child = os.fork()
if child == 0:
    os.setsid()
    time.sleep(600)
print('child', child)
os._exit(9)
"""
        await runtime.start(self.spec(node, script(node.artifact, "orphan.py", text)))
        await self.over(runtime)

        (line,) = await runtime.last_lines("one")
        assert not runs(int(line.split()[1]))

    async def test_a_graceful_stop_gets_its_time(self, node: Node, runtime: Runtime) -> None:
        text = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    print('tidied up')
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print('ready')
time.sleep(600)
"""
        await runtime.start(self.spec(node, script(node.artifact, "tidy.py", text)))
        await self.says(runtime, "ready")
        ended = await runtime.stop("one", 10.0)

        assert (ended.cause, ended.exit_code) == (ExitCause.STOPPED, 0)
        assert (await runtime.last_lines("one"))[-1] == "tidied up"

    async def test_after_the_grace_period_it_is_killed(self, node: Node, runtime: Runtime) -> None:
        text = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('ready')\ntime.sleep(600)"
        await runtime.start(self.spec(node, script(node.artifact, "deaf.py", text)))
        await self.says(runtime, "ready")
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended = await runtime.stop("one", 0.5)

        assert 0.5 <= loop.time() - began < 5.0
        assert (ended.cause, ended.signal) == (ExitCause.STOPPED, signal.SIGKILL)
        assert "grace" in ended.reason

    async def test_the_environment_holds_what_was_given_and_nothing_else(
        self, node: Node, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PLATFORM_SECRET", "hidden")
        given = {"GREETING": "hello there; $HOME `id`", "PORT": "1"}
        await runtime.start(self.spec(node, "env", env=given, wants_port=True, kind=InstanceKind.TASK))
        status = await self.over(runtime)

        found = dict(line.split("=", 1) for line in await runtime.last_lines("one"))
        expected = {"PATH", "LANG", "HOME", "TMPDIR", "PWD", "PORT", "RAYFOLD_INSTANCE", "RAYFOLD_HOME"}
        assert set(found) == expected | {"GREETING"}
        assert found["GREETING"] == given["GREETING"]
        assert (found["PORT"], found["RAYFOLD_INSTANCE"]) == (str(status.port), "one")

    async def test_no_new_privileges_and_nothing_open(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, re
print(re.search('NoNewPrivs:.*', open('/proc/self/status').read())[0].split()[1])
print(sorted(int(each) for each in os.listdir('/proc/self/fd')))
print(open('/dev/stdin').read() == '', oct(os.umask(0)), os.getsid(0) == os.getpgid(0) == os.getpid())
print('reopened', file=open('/dev/stdout', 'w'))
"""
        await runtime.start(self.spec(node, script(node.artifact, "look.py", text), kind=InstanceKind.TASK))
        await self.over(runtime)

        assert await runtime.last_lines("one") == ["1", "[0, 1, 2, 3]", "True 0o27 True", "reopened"]

    async def test_home_and_tmp_can_be_written(self, node: Node, runtime: Runtime) -> None:
        command = "touch $HOME/a && touch $TMPDIR/b && pwd -P"
        await runtime.start(self.spec(node, command, kind=InstanceKind.TASK))

        assert (await self.over(runtime)).exit_code == 0
        assert await runtime.last_lines("one") == [str(node.artifact.resolve())]

    async def test_live_instances_never_share_a_port(self, node: Node, runtime: Runtime) -> None:
        specs = [self.spec(node, "sleep 60", instance_id=f"i{n}", wants_port=True) for n in range(6)]
        statuses = await asyncio.gather(*map(runtime.start, specs))

        assert len({status.port for status in statuses}) == 6

    async def test_an_instance_is_removed_only_once_it_is_over(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "sleep 60", wants_port=True))
        with pytest.raises(InstanceStillRunning):
            await runtime.remove("one")
        await runtime.stop("one")
        await runtime.remove("one")
        await runtime.remove("one")

        assert await runtime.list() == []

    async def test_probes_tell_when_it_is_ready(self, node: Node, runtime: Runtime) -> None:
        text = f"exec {PYTHON} -m http.server --bind 127.0.0.1 $PORT"
        await runtime.start(self.spec(node, text, wants_port=True))

        http = await wait_ready(runtime, "one", HttpProbe(path="/"), timeout_seconds=10)
        tcp = await wait_ready(runtime, "one", TcpProbe(), timeout_seconds=10)
        missing = await wait_ready(runtime, "one", HttpProbe(path="/missing"), timeout_seconds=0.2)

        assert http.ready and tcp.ready
        assert not missing.ready and "404" in missing.detail

    async def test_a_probe_gives_up_on_what_is_over(self, node: Node, runtime: Runtime) -> None:
        await runtime.start(self.spec(node, "exit 4", wants_port=True))
        result = await wait_ready(runtime, "one", TcpProbe(), timeout_seconds=20)

        assert result.over and "4" in result.detail
