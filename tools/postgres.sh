#!/usr/bin/env bash
# Installs a PostgreSQL server where there is none: the tests and the demonstration start private ones from it.
# Says what it does before it does it, and does nothing where a server is found.
set -euo pipefail

has_server() { [ -x "$1/postgres" ] && [ -x "$1/initdb" ]; }

if [ -n "${PG_BIN:-}" ]; then
    if has_server "$PG_BIN"; then exit 0; fi
    echo "PG_BIN is $PG_BIN, where there is no \`postgres\` and no \`initdb\`: set it right, or unset it" >&2
    exit 1
fi
shopt -s nullglob
for directory in "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin \
    /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin; do
    if has_server "$directory"; then exit 0; fi
done

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi; }
if command -v apt-get >/dev/null; then
    echo "PostgreSQL is not installed; installing it now: apt-get install -y --no-install-recommends postgresql"
    echo "(the package also makes a cluster of its own on port 5432, which is not used here)"
    install() {
        as_root apt-get update -q || true
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql
    }
elif command -v brew >/dev/null; then
    echo "PostgreSQL is not installed; installing it now: brew install postgresql@16"
    install() { brew install postgresql@16; }
else
    echo "PostgreSQL is not installed: install its server, or set PG_BIN to the directory of \`postgres\` and \`initdb\`" >&2
    exit 1
fi
install || {
    echo "that failed; install PostgreSQL's server yourself, or set PG_BIN to the directory of \`postgres\` and \`initdb\`" >&2
    exit 1
}
