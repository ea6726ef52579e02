#!/usr/bin/env bash
# Prints the Secrets that the manifests mount, from the files that deploy/secrets.sh has made, and the store of tokens:
#
#   deploy/secrets.sh DIR
#   BODYCAM__STATE__PATH=DIR/state.db bodycam token issue --principal etl --ttl 30d --config OVERLAY/bodycam.toml
#   deploy/kubernetes/secrets.sh DIR [dev] | kubectl apply -f -
set -euo pipefail
dir=$1 overlay=${2:-}
# secret NAME KEY=FILE…
secret() {
    local name=$1 pair; shift
    local from=()
    for pair in "$@"; do from+=("--from-file=${pair%%=*}=$dir/${pair#*=}"); done
    echo ---
    kubectl create secret generic "$name" --namespace=bodycam "${from[@]}" --dry-run=client --output=yaml
}
secret bodycam-tenant tenant.key=tenant.key
secret bodycam-tokens state.db=state.db
secret bodycam-gateway-tls tls.crt=gateway.crt tls.key=gateway.key
secret bodycam-targets shop=target.password ca.crt=ca.crt
secret bodycam-kafka-ca ca.crt=ca.crt
secret bodycam-kafka-gateways bodycam-gateway-0=kafka-bodycam-gateway-0.password bodycam-gateway-1=kafka-bodycam-gateway-1.password bodycam-gateway-2=kafka-bodycam-gateway-2.password
secret bodycam-kafka-recorders password=kafka-bodycam-recorder.password
secret bodycam-kafka-detection password=kafka-bodycam-detection.password
secret bodycam-lake-recorders ca.crt=ca.crt access-key=s3.access secret-key=s3.secret
secret bodycam-lake-detection ca.crt=ca.crt access-key=s3.access secret-key=s3.secret
secret bodycam-cluster-tls ca.crt=cluster-ca.crt tls.crt=cluster.crt tls.key=cluster.key
[ "$overlay" = dev ] || exit 0
# What the dev overlay runs besides.
secret kafka-broker ca.crt=ca.crt kafka.pem=kafka.pem kafka-bodycam-gateway-0.password=kafka-bodycam-gateway-0.password kafka-bodycam-gateway-1.password=kafka-bodycam-gateway-1.password kafka-bodycam-recorder.password=kafka-bodycam-recorder.password kafka-bodycam-detection.password=kafka-bodycam-detection.password kafka-admin.password=kafka-admin.password
secret store store.json=store.json store.crt=store.crt store.key=store.key
secret target target.crt=target.crt target.key=target.key target.password=target.password target-admin.password=target-admin.password
