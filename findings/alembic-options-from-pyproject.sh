#!/bin/sh
# Alembic 1.20.1: a named section of alembic.ini gets each option that it leaves out from
# [tool.alembic] in pyproject.toml.
#
# Behaviour: `alembic -n other upgrade head` with a section [other] that has a script_location of its
# own, and no version_locations, takes version_locations from pyproject.toml, where they are those of
# the main history. So it executes the revisions of the main history in the environment of the
# other one, and records them in the version table of that. The exit code is 0.
# Expected by many: a section that is named with -n is complete, as without a pyproject.toml.
#
# Ends with 0 while it is so, with 1 if that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check alembic==1.20.1 sqlalchemy==2.0.44

for history in main other; do
    mkdir -p "$history/versions"
    cat > "$history/env.py" <<EOF
from alembic import context
from sqlalchemy import create_engine
with create_engine("sqlite:///test.db").connect() as connection:
    context.configure(connection=connection, version_table="versions_of_$history")
    with context.begin_transaction():
        context.run_migrations()
EOF
    cat > "$history/versions/1.py" <<EOF
from alembic import op
revision, down_revision = "${history}_1", None
def upgrade(): op.execute("CREATE TABLE made_by_$history (id integer)")
EOF
done
cat > pyproject.toml <<'EOF'
[tool.alembic]
script_location = "%(here)s/main"
version_locations = ["%(here)s/main/versions"]
EOF
cat > alembic.ini <<'EOF'
[other]
script_location = %(here)s/other
path_separator = os
EOF

venv/bin/alembic -n other upgrade head 2> log || { cat log; exit 1; }
seen=$(venv/bin/python - <<'EOF'
import sqlite3
connection = sqlite3.connect("test.db")
tables = sorted(name for (name,) in connection.execute("SELECT name FROM sqlite_master"))
(version,) = connection.execute("SELECT version_num FROM versions_of_other").fetchone()
print(*[name for name in tables if name.startswith("made")], version)
EOF
)
echo "alembic -n other upgrade head: exit code 0; made and recorded for other: $seen"
[ "$seen" = "made_by_main main_1" ]
