#!/bin/bash
# Makes the topics with the settings that bodycam asks of them, and the rights: gateways write, recorders read, detection writes
# findings, nobody else.
# Repeating it changes nothing.
#
#   BOOTSTRAP GATEWAYS RECORDERS DETECTION PARTITIONS REPLICAS INSYNC OUTAGE_HOURS [PREFIX] [GROUP]
set -euo pipefail
bin=${KAFKA:-/opt/kafka}/bin prefix=${PREFIX:-bodycam} group=${GROUP:-bodycam-recorder} client=/tmp/client.properties
export LOG_DIR=/tmp/logs KAFKA_HEAP_OPTS="${KAFKA_HEAP_OPTS:--Xmx256m}"
umask 077
cat > "$client" <<PROPERTIES
security.protocol=SASL_SSL
ssl.truststore.type=PEM
ssl.truststore.location=/run/secrets/ca.crt
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="admin" password="$(cat /run/secrets/kafka-admin.password)";
PROPERTIES
acls() { "$bin/kafka-acls.sh" --bootstrap-server "$BOOTSTRAP" --command-config "$client" --add "$@" >/dev/null; }
for topic in events keys ledger findings; do
    "$bin/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP" --command-config "$client" --create --if-not-exists \
        --topic "$prefix.$topic" --partitions "$PARTITIONS" --replication-factor "$REPLICAS" \
        --config cleanup.policy=delete --config retention.ms=$((OUTAGE_HOURS * 3600000)) --config retention.bytes=-1 \
        --config max.message.bytes=1048576 --config compression.type=producer \
        --config unclean.leader.election.enable=false --config min.insync.replicas="$INSYNC"
done
for user in $GATEWAYS; do
    acls --allow-principal "User:$user" --operation Write --operation Describe --operation DescribeConfigs \
        --resource-pattern-type prefixed --topic "$prefix."
    acls --allow-principal "User:$user" --operation IdempotentWrite --cluster
done
for user in $RECORDERS; do
    acls --allow-principal "User:$user" --operation Read --operation Describe --operation DescribeConfigs \
        --resource-pattern-type prefixed --topic "$prefix."
    acls --allow-principal "User:$user" --operation Read --operation Describe --group "$group"
done
for user in $DETECTION; do
    acls --allow-principal "User:$user" --operation Write --operation Describe --topic "$prefix.findings"
    acls --allow-principal "User:$user" --operation IdempotentWrite --cluster
done
echo "topics and rights are there"
