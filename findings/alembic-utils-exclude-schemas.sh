#!/bin/sh
# alembic-utils 0.8.8 (with Alembic 1.20.1): register_entities(exclude_schemas=...) has no effect.
#
# Behaviour: a function in a schema that is named in exclude_schemas is dropped by autogenerate, as
# without it. The comparison in replaceable_entity.py is chained: `name is not None not in (...)` asks
# whether None is in the set.
# Expected, by its documentation: "A list of SQL schemas to ignore."
#
# It needs a Postgres: DATABASE_URL=postgresql+psycopg://... of a database that may be written to.
# Ends with 0 while it is so, with 1 if that has changed, with 2 without a DATABASE_URL.
set -eu
: "${DATABASE_URL:?}" || exit 2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
    alembic==1.20.1 alembic-utils==0.8.8 sqlalchemy==2.0.44 'psycopg[binary]==3.3.9'

cat > drops.py <<'EOF'
import os
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.runtime.migration import MigrationContext
from alembic_utils.pg_function import PGFunction
from alembic_utils.replaceable_entity import register_entities

ours = PGFunction(
    schema="public", signature="kept()", definition="returns int language sql as 'select 1'"
)
register_entities([ours], exclude_schemas=["excluded"])
with sa.create_engine(os.environ["DATABASE_URL"]).connect() as connection:
    connection.execute(sa.text("CREATE SCHEMA excluded"))
    connection.execute(
        sa.text("CREATE FUNCTION excluded.theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    )
    context = MigrationContext.configure(connection, opts={"include_schemas": True})
    made = produce_migrations(context, sa.MetaData()).upgrade_ops
    for one in made.ops:
        print(type(one).__name__, getattr(getattr(one, "target", None), "identity", ""))
    connection.rollback()
EOF
venv/bin/python drops.py | tee seen
grep -q "DropOp.*excluded.theirs" seen
