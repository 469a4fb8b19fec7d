"""Images under the names that `docker/compose.yml` asks for, made of Debian's packages: no registry is needed.

What they have in common with the originals is what compose relies on: variables, folders, commands, who they run as.
"""

from __future__ import annotations

import io
import tarfile

from mlplatform.plugins.targets import engine

BASE = "python:3.11-slim-bookworm"
INSTALL = "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends"
POSTGRES = f"""
FROM {BASE}
{INSTALL} postgresql > /dev/null
COPY start /start
ENTRYPOINT ["sh", "/start"]
"""
START_POSTGRES = """
set -e
data=/var/lib/postgresql/data
as_owner() { runuser -u postgres -- "$@"; }
export PATH="$(echo /usr/lib/postgresql/*/bin):$PATH" LANG=C.UTF-8
chown postgres "$data"
if [ ! -s "$data/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" > /run/first
    chown postgres /run/first
    as_owner initdb -D "$data" -U "$POSTGRES_USER" --auth=scram-sha-256 --pwfile=/run/first
    rm /run/first
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    echo "CREATE DATABASE $POSTGRES_DB" | as_owner postgres --single -D "$data" postgres
fi
as_owner postgres -D "$data" -c "listen_addresses=*"
"""
PROMETHEUS = f"""
FROM {BASE}
{INSTALL} prometheus wget > /dev/null && install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
"""


def make(postgres: str, prometheus: str) -> None:
    """Under these names."""
    for tag, recipe in ((postgres, POSTGRES), (prometheus, PROMETHEUS)):
        files = {"Dockerfile": recipe.encode(), "start": START_POSTGRES.encode()}
        engine.build(tag, packed(files), "Dockerfile", {}, {})


def packed(files: dict[str, bytes]) -> bytes:
    """A build's context."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
