"""Where the platform's own processes write what they do: one JSON line each, one bounded file per process.

Never user output, never configuration values: those belong to the log service and the event log.
"""

import logging
import logging.handlers
from pathlib import Path

import structlog

MAX_BYTES = 8 * 1024 * 1024
KEPT_FILES = 3


def open_journal(directory: Path, name: str) -> None:
    """Send this process's log lines to `{directory}/{name}.log`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        directory / f"{name}.log", maxBytes=MAX_BYTES, backupCount=KEPT_FILES
    )
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
