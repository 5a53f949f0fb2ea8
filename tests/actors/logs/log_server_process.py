"""A log server of its own process, for tests that kill it: `log_server_process.py ROOT PORT_FILE TOKEN`."""

import asyncio
import sys
from pathlib import Path

from actors.logs.server import EventlogServer
from actors.logs.store import LogStore


async def main(root: str, port_file: str, token: str) -> None:
    store = LogStore(Path(root))
    await store.start()
    await EventlogServer(store, token, port_file=Path(port_file)).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
