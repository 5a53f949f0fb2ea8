"""Read model: the application templates of each team, a row for each version that may be installed.

Must not know what an app has: its own story says which version it was installed from.
"""

from events.log.records import StoredEvent
from events.model.base import Event
from events.model.template import TemplatePublished, TemplateRemoved
from projections.model import Projection, ident_of, to_json
from projections.rows import Rows
from projections.schema import index, json_text, model_table, number, text

TEMPLATES = model_table(
    "templates",
    text("team", key=True),
    text("name", key=True),
    text("label", key=True),
    text("digest"),
    json_text("document", blank="{}"),
    text("source"),
    number("published_at"),
    text("published_by"),
)
index(TEMPLATES, "team", "published_at")


def fold(rows: Rows, stored: StoredEvent, event: Event) -> None:
    """One template event. A version that is published again after it was removed is a new row."""
    team, _, name = ident_of(stored.record.stream).partition(".")
    match event:
        case TemplatePublished():
            rows.new(
                TEMPLATES,
                stored,
                team=team,
                name=name,
                label=event.label,
                digest=event.digest,
                document=to_json(event.document),
                source=event.source,
                published_at=stored.record.at,
                published_by=stored.record.actor,
            )
        case TemplateRemoved(label=label):
            rows.delete(TEMPLATES, team, name, label)


PROJECTION = Projection(name="templates", version=1, kinds=frozenset({"template"}), tables=(TEMPLATES,), fold=fold)
