#!/bin/sh
# Alembic 1.20.1: autogenerate drops tables in the order of a Python set.
#
# Behaviour: two tables that are no longer in the models, the one with a foreign key to the other,
# are dropped in an order that depends on PYTHONHASHSEED. Where the parent comes first, Postgres
# refuses the revision ("cannot drop table parent because other objects depend on it").
# Expected: children first, as Alembic creates parents first.
#
# Ends with 0 while it is so, with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check alembic==1.20.1 sqlalchemy==2.0.44

cat > drops.py <<'EOF'
import sqlalchemy as sa
from alembic.autogenerate import produce_migrations
from alembic.runtime.migration import MigrationContext

engine = sa.create_engine("sqlite://")
with engine.connect() as connection:
    connection.execute(sa.text("CREATE TABLE parent (id integer PRIMARY KEY)"))
    connection.execute(sa.text("CREATE TABLE child (id integer REFERENCES parent (id))"))
    context = MigrationContext.configure(connection)
    made = produce_migrations(context, sa.MetaData()).upgrade_ops
    print(*[one.table_name for one in made.ops])
EOF
for seed in 1 2 3 4 5 6 7 8 9 10; do
    PYTHONHASHSEED=$seed venv/bin/python drops.py
done | sort | uniq -c | sort > orders
cat orders
grep -q "child parent" orders
grep -q "parent child" orders
