"""The output of one thing that ends, such as a build or an operation: all of it, or as it comes.

Knows pages and feeds of lines; nothing of what wrote them.
"""

from api.cli.document import Document
from api.cli.feed import Feed
from api.cli.loglines import shown, tell_line
from api.cli.session import Session


def tell_output(session: Session, path: str, follow: bool) -> None:
    """Print the lines behind `path`; with `follow` until they end."""
    if follow:
        for sent in Feed(session.client, path, {"follow": True}):
            _tell(session, sent.document())
        return
    number = 1
    while True:
        page = session.client.get(path, {"from": number, "n": 10_000})
        for line in page.items():
            _tell(session, line)
        if not page.items():
            return
        number = page.whole("next")


def _tell(session: Session, line: Document) -> None:
    tell_line(session, line, lambda line: shown(line.text("text")))
