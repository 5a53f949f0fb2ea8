"""What every `Runtime` promises of limits: memory, of children and shared, open files, processes.

Knows the port only.
"""

from actors.runtime.port import ExitCause, Limits, Runtime
from actors.runtime.probe import AliveProbe, wait_ready
from tests.actors.runtime.instances import MIB, Instances, Node, script


class LimitsContract(Instances):
    """Part of `RuntimeContract`."""

    async def test_over_its_memory_it_is_killed_and_the_reason_told(self, node: Node, runtime: Runtime) -> None:
        text = "import time\nheld = []\nwhile True:\n    held.append(b'x' * 4_000_000)\n    time.sleep(0.01)"
        command = script(node.artifact, "hog.py", text)
        await runtime.start(self.spec(node, command, limits=Limits(memory_bytes=64 * MIB)))
        ended = await self.over(runtime)

        assert ended.cause is ExitCause.MEMORY_LIMIT
        assert "64 MiB" in ended.reason

    async def test_the_memory_of_children_counts(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        held = b'x' * 30_000_000
        time.sleep(600)
time.sleep(600)
"""
        command = script(node.artifact, "herd.py", text)
        await runtime.start(self.spec(node, command, limits=Limits(memory_bytes=64 * MIB)))

        assert (await self.over(runtime)).cause is ExitCause.MEMORY_LIMIT

    async def test_memory_shared_by_forked_workers_counts_once(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, time
held = b'x' * 40_000_000
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
print('ready')
time.sleep(600)
"""
        command = script(node.artifact, "prefork.py", text)
        await runtime.start(self.spec(node, command, limits=Limits(memory_bytes=100 * MIB)))
        await self.says(runtime, "ready")
        result = await wait_ready(runtime, "one", AliveProbe(seconds=1.0), timeout_seconds=5.0)

        assert result.ready, result

    async def test_open_files_are_limited(self, node: Node, runtime: Runtime) -> None:
        text = """
files = []
try:
    while True: files.append(open('/dev/null'))
except OSError as error:
    print(len(files) < 64, error.errno)
"""
        command = script(node.artifact, "files.py", text)
        await runtime.start(self.spec(node, command, limits=Limits(open_files=64)))
        await self.over(runtime)

        assert await runtime.last_lines("one") == ["True 24"]

    async def test_processes_are_limited(self, node: Node, runtime: Runtime) -> None:
        text = """
import os, time
started = 0
try:
    while started < 500:
        if os.fork() == 0:
            time.sleep(600)
        started += 1
        time.sleep(0.005)
except OSError as error:
    print('refused', started < 20, error.errno)
"""
        command = script(node.artifact, "many.py", text)
        await runtime.start(self.spec(node, command, limits=Limits(processes=20)))
        ended = await self.over(runtime)

        refused = await runtime.last_lines("one") == ["refused True 11"]
        assert refused or ended.cause is ExitCause.PROCESS_LIMIT, ended
