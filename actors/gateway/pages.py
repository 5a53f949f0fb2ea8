"""What a client reads when there is nothing to pass on: small HTML pages and the same as problem+json.

Knows Envoy's format operators (%REQ%, %METADATA%); nothing of routes. Only what the platform made is put in HTML.
"""

from typing import NamedTuple


class Page(NamedTuple):
    """One answer of the gateway's own. `flags` are Envoy's response flags that lead to it; `status` 0 keeps Envoy's."""

    code: str
    flags: tuple[str, ...]
    title: str
    text: str


_WHERE = "%METADATA(ROUTE:rayfold:app)%"
_WHAT = "%METADATA(ROUTE:rayfold:component)%"

PAGES = (
    Page(
        "no-ready-instance",
        ("UH", "NC"),
        "No instance is ready",
        f"Component {_WHAT} of app {_WHERE} has no instance that takes requests right now. "
        "It may be starting, stopped or failing: see rayfold ps and rayfold logs.",
    ),
    Page(
        "unknown-host",
        ("NR",),
        "Nothing is here",
        "No app has this address. See rayfold routes for the addresses that there are.",
    ),
    Page(
        "upstream-unreachable",
        ("UF",),
        "The app cannot be reached",
        f"No connection to an instance of component {_WHAT} of app {_WHERE} could be made.",
    ),
    Page(
        "upstream-closed",
        ("UC", "UR", "LR", "URX", "UPE"),
        "The app broke off",
        f"An instance of component {_WHAT} of app {_WHERE} closed the connection before it had answered.",
    ),
    Page(
        "upstream-timeout",
        ("UT", "SI", "UMSDR"),
        "The app did not answer in time",
        f"Component {_WHAT} of app {_WHERE} sent nothing for too long.",
    ),
    Page(
        "upstream-overloaded",
        ("UO",),
        "The app has too much to do",
        f"Too many requests are waiting for component {_WHAT} of app {_WHERE}.",
    ),
)
"""In the order in which they are tried: one answer can carry several flags."""


def html(page: Page) -> str:
    """The page for people. The status and the request id are Envoy's operators, filled in for each answer."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{page.title}</title>'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:15vh auto;padding:0 1em}"
        "small{color:#666}</style></head><body>"
        f"<h1>{page.title}</h1><p>{page.text}</p>"
        f"<p><small>%RESPONSE_CODE% {page.code} · request %REQ(X-REQUEST-ID)%</small></p></body></html>\n"
    )


def problem(page: Page) -> dict[str, str]:
    """The same for programs (RFC 9457); Envoy escapes what it fills in and keeps a lone number a number."""
    return {
        "type": "about:blank",
        "title": page.title,
        "status": "%RESPONSE_CODE%",
        "code": page.code,
        "detail": page.text,
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
