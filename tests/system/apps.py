"""Small applications as they stand in a directory: the standard library only, so that a build takes no time.

Knows how an application is laid out; nothing of platforms.
"""

import json
import tarfile
from io import BytesIO
from pathlib import Path

Files = dict[str, str]

_WEB = """
import base64, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SETTINGS = {settings}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def do_GET(self):
        if self.path.startswith("/say/"):
            print(self.path[5:], flush=True)
        if self.path == "/tell":
            greeting = os.environ.get("GREETING", "")
            print("told", greeting, base64.b64encode(f"user:{{greeting}}".encode()).decode(), flush=True)
        if self.path == "/crash":
            print("about to crash", flush=True)
            os._exit(3)
        time.sleep(SETTINGS["work_seconds"])
        told = {{
            "pid": os.getpid(), "text": SETTINGS["text"], "release": int(os.environ["RAYFOLD_RELEASE"]),
            "instance": os.environ["RAYFOLD_INSTANCE"], "greeting": os.environ.get("GREETING", ""),
        }}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

time.sleep(SETTINGS["start_seconds"])
class Server(ThreadingHTTPServer):
    request_queue_size = 128
server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("listening as", SETTINGS["text"], flush=True)
server.serve_forever()
"""


def web(text: str, *, start_seconds: float = 0.0, release_seconds: float = 0.0, work_seconds: float = 0.0) -> Files:
    """Answers every GET with what it is: pid, text, release, instance, greeting. It ends at once on SIGTERM: whoever
    stops it has to have drained it. `/crash` ends it with exit code 3, `/say/WORD` prints WORD, `/tell`
    its greeting, as it is and in base64."""
    settings = {"text": text, "start_seconds": start_seconds, "work_seconds": work_seconds}
    files = {"app.py": _WEB.format(settings=settings), "Procfile": "web: python3 app.py\n"}
    if release_seconds:
        files["Procfile"] += f'release: python3 -c "import time; time.sleep({release_seconds})"\n'
    return files


def broken_build() -> Files:
    """A package.json that no lock file and no tool can make sense of."""
    return {"requirements.txt": "this-is == not a requirement !!\n", "app.py": "", "Procfile": "web: python3 app.py\n"}


def never_listens() -> Files:
    """Runs and never opens its port."""
    code = 'import time\nprint("I have no port to open", flush=True)\nwhile True:\n    time.sleep(60)\n'
    return {"app.py": code, "Procfile": "web: python3 app.py\n"}


def exits_at_once() -> Files:
    """Says why and ends."""
    code = 'import sys\nprint("cannot find my database", file=sys.stderr, flush=True)\nsys.exit(41)\n'
    return {"app.py": code, "Procfile": "web: python3 app.py\n"}


def prober() -> Files:
    """Tries what it is told in the body of a POST, as itself, and answers with what came of each attempt."""
    source = (Path(__file__).parent / "prober.py").read_text()
    return {"app.py": source, "Procfile": "web: python3 app.py\n"}


def write(directory: Path, files: Files) -> Path:
    """Lay the files out in a directory that holds nothing else; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar of exactly these members, whatever their names and links say."""
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return out.getvalue()


def dumps(value: object) -> bytes:
    """JSON as bytes."""
    return json.dumps(value).encode()
