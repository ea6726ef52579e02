#!/bin/bash
# Starts a broker: writes its settings, formats its disk once, with the users of the SCRAM listener, and runs it.
#
#   NODE_ID HOST VOTERS REPLICAS INSYNC   what server.properties leaves open
set -euo pipefail
settings=/tmp/server.properties
# Where the JVM's and the broker's own logs go: the root of the container is read-only.
export LOG_DIR=/tmp/logs KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xms512m -Xmx768m}"
sed -e "s|@NODE_ID@|$NODE_ID|" -e "s|@HOST@|$HOST|g" -e "s|@VOTERS@|$VOTERS|" -e "s|@REPLICAS@|$REPLICAS|" -e "s|@INSYNC@|$INSYNC|" \
    "$(dirname "$0")/server.properties" > "$settings"
users=()
for file in /run/secrets/kafka-*.password; do
    user=$(basename "$file" .password)
    users+=(--add-scram "SCRAM-SHA-512=[name=${user#kafka-},password=$(cat "$file")]")
done
# One id for the cluster of one deployment; a disk that is formatted already keeps what it has.
"${KAFKA:-/opt/kafka}/bin/kafka-storage.sh" format --ignore-formatted --cluster-id "${CLUSTER_ID:-4L6g3nShT-eMCtK--X86sw}" \
    --config "$settings" "${users[@]}"
exec "${KAFKA:-/opt/kafka}/bin/kafka-server-start.sh" "$settings"
