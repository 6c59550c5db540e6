"""How alembic runs the migrations: on the connection that `accord.annotate.database` gives it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
