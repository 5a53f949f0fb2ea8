"""How alembic runs here: over the connection that `Database.migrate` hands it, in that connection's transaction.

Must not open a database of its own: there is no alembic.ini, and nobody runs alembic by hand.
"""

from alembic import context

from projections.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
