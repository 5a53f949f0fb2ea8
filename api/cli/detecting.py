"""`rayfold detect`: what a directory would be built as, and how it would be started, without building it.

Asks no platform and no network; knows how to show a proposal, nothing of how it is made.
"""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.document import Document
from api.cli.errors import CliError, ExitCode
from api.cli.session import Session, takes_session

_MIB = 1024 * 1024


@takes_session
def detect(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="A directory of source.")] = Path(),
    subdir: Annotated[str, typer.Option("--subdir", help="A directory inside PATH.")] = "",
) -> None:
    """What PATH would be built as, and why; everything else it might be; and how it would start."""
    # Here, because the command line must start quickly.
    import msgspec

    from actors.builder.errors import BuilderError
    from actors.builder.proposal import propose
    from actors.builder.sources import subdirectory

    if not path.is_dir():
        raise CliError(
            f"expected a directory, found {str(path)!r}", exit_code=ExitCode.USAGE, hint="rayfold detect DIRECTORY"
        )
    try:
        found = propose(subdirectory(path.resolve(), subdir))
    except BuilderError as error:
        raise CliError(
            str(error), code=error.code, hint=f"docs/build-errors.md#{error.code}", exit_code=ExitCode.FAILED
        ) from error
    if session.out.as_json:
        session.out.json(Document(msgspec.to_builtins(found)))
        return
    wanted = f"{found.version_wanted} ({found.version_from})" if found.version_wanted else "any that is installed"
    framework = " with ".join(filter(None, (found.framework, found.package_manager)))
    facts = [("language", f"{found.title}, because {found.rule}"), ("framework", framework), ("version", wanted)]
    facts += [(name, f"{command}   ({found.processes_from})") for name, command in found.processes.items()]
    facts += [
        ("release", found.release_command or ""),
        ("port", f"$PORT{f' (by itself it would take {found.port})' if found.port else ''}"),
        ("memory", f"{found.memory_bytes // _MIB} MiB recommended"),
    ]
    session.out.facts([(name, text) for name, text in facts if text])
    others = [[hit.title, hit.file, hit.reason] for hit in found.hits[1:] if hit.language != "procfile"]
    if others:
        session.out.table(["also saw", "because of", "which"], others, "")
        session.out.say('to build another: [build] language = "NAME" in rayfold.toml')
    for warning in found.warnings:
        session.out.say(f"warning: {warning}")
    if found.problem:
        raise CliError(
            found.problem, code=found.problem_code or "", hint=f"docs/build-errors.md#{found.problem_code}",
            exit_code=ExitCode.FAILED,
        )  # fmt: skip
