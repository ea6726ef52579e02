#!/bin/bash
# PostgreSQL wants its key readable by nobody else; what containers mount is.
set -euo pipefail
install -m 0600 /run/secrets/target.key /tmp/target.key
exec docker-entrypoint.sh postgres "$@"
