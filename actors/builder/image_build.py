"""The program that has an engine build one Dockerfile: the context goes in, output lines come out, an image is left.

A process of its own, so that a build is stopped as every build's command is stopped: when it dies, its connection
closes, and the engine ends the build. Its one argument is a JSON file (see `main`); it knows nothing of the platform.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import DockerException
from docker.utils.build import create_archive, exclude_paths

EXIT_FAILED = 1
EXIT_ENGINE = 3


class NotBuilt(Exception):
    """The engine ended the build; the message is its own."""


def _context(root: str, dockerfile: str) -> Any:
    """A tar of the tree, but for what .dockerignore names; links stay links."""
    ignored: list[str] = []
    listed = Path(root) / ".dockerignore"
    if listed.is_file():
        lines = (line.strip() for line in listed.read_text("utf-8", "replace").splitlines())
        ignored = [line for line in lines if line and not line.startswith("#")]
    # The Dockerfile itself is sent even where .dockerignore names it.
    files = sorted(exclude_paths(root, [*ignored, f"!{dockerfile}"], dockerfile=dockerfile))
    return create_archive(root, files=files, gzip=False)


def _said(stream: Iterator[Any]) -> Iterator[str]:
    for each in stream:
        if told := each.get("error"):
            raise NotBuilt(str(told).strip())
        text = each.get("stream") or each.get("status") or ""
        yield from (line.rstrip() for line in str(text).splitlines() if line.strip())


def main(path: str) -> int:
    """`path`: {engine, root, dockerfile, tag, labels, memory_bytes, timeout_seconds,
    fresh, buildargs}. Prints the output.

    Exit status 0: the image bears `tag`. 1: the Dockerfile does not build. 3: the engine did not answer.
    """
    asked = json.loads(Path(path).read_text())
    try:
        api = docker.APIClient(base_url=asked["engine"], version=asked["version"], timeout=asked["timeout_seconds"])
        stream = api.build(
            fileobj=_context(asked["root"], asked["dockerfile"]),
            custom_context=True,
            dockerfile=asked["dockerfile"],
            tag=asked["tag"],
            labels=asked["labels"],
            container_limits={"memory": asked["memory_bytes"], "memswap": asked["memory_bytes"]},
            buildargs=asked["buildargs"],
            nocache=asked["fresh"],
            rm=True,
            forcerm=True,
            decode=True,
        )
        for line in _said(stream):
            print(line, flush=True)
    except NotBuilt as error:
        print(error, flush=True)
        return EXIT_FAILED
    except (DockerException, requests.exceptions.RequestException, OSError) as error:
        print(error, flush=True)
        return EXIT_ENGINE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
