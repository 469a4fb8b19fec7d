"""Alembic's entry: runs on the connection that `mlplatform.state.schema` hands over, inside its transaction.

By hand, to write a new revision:
`alembic -c migrations/alembic.ini -x url=sqlite:///try.db revision --autogenerate -m WHAT`.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from mlplatform.state.engine import Database, closing
from mlplatform.state.schema import VERSION_TABLE
from mlplatform.state.tables import metadata


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        # SQLite too can undo DDL; Alembic only assumes otherwise.
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with closing(Database(context.get_x_argument(as_dictionary=True)["url"])) as database:
        database.write(run)
