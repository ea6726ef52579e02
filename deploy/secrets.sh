#!/usr/bin/env bash
# Makes what a deployment must keep to itself: keys, passwords, and certificates of an authority of its own. For trying it,
# and as the list of what is needed: where you have a vault and an authority, put their files in these places.
# What is there stays: deleting a file and running this again makes a new one.
#
#   deploy/secrets.sh DIR [NAME…]      NAMEs: further DNS names of the gateway's certificate
set -euo pipefail
dir=$1; shift
umask 077
mkdir -p "$dir"
cd "$dir"
# Containers mount these files as they are: DIR keeps other users of this host away from them.
chmod 0700 .
random() { openssl rand -hex 24; }
missing() { [ ! -e "$1" ]; }
kept() { chmod 0444 "$@"; }

missing tenant.key && openssl rand -hex 32 > tenant.key
for name in kafka-bodycam-gateway-{0..2} kafka-bodycam-recorder kafka-bodycam-detection kafka-admin target target-admin; do
    missing $name.password && random > $name.password
done
missing s3.access && echo bodycam > s3.access
missing s3.secret && random > s3.secret
if missing store.json; then
    printf '{"identities": [{"name": "bodycam", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' \
        "$(cat s3.access)" "$(cat s3.secret)" > store.json
fi

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
if missing ca.crt; then
    key ca.key
    openssl req -new -x509 -key ca.key -days 3650 -subj "/CN=bodycam example authority" -out ca.crt \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
fi
# certificate NAME DNS…: NAME.key and NAME.crt for these names, by the authority $ca
certificate() {
    local name=$1; shift
    local names; names=$(printf ',DNS:%s' "$@")
    key "$name.key"
    openssl req -new -key "$name.key" -subj "/CN=$name" |
        openssl x509 -req -CA "${ca:-ca}.crt" -CAkey "${ca:-ca}.key" -CAserial "${ca:-ca}.srl" -CAcreateserial -days 825 -out "$name.crt" -extfile <(
            echo "basicConstraints=critical,CA:FALSE"
            echo "extendedKeyUsage=serverAuth,clientAuth"
            echo "subjectAltName=${names#,}"
        ) 2>/dev/null
}
service=bodycam-gateway.bodycam.svc
missing gateway.crt && certificate gateway gateway gateway-0 gateway-1 localhost bodycam-gateway $service $service.cluster.local "$@"
missing store.crt && certificate store store store.bodycam.svc.cluster.local localhost
missing target.crt && certificate target target target.bodycam.svc.cluster.local
if missing kafka.pem; then
    certificate kafka kafka kafka-1 kafka-2 kafka-3 kafka.bodycam.svc.cluster.local kafka-0.kafka.bodycam.svc.cluster.local localhost
    cat kafka.key kafka.crt > kafka.pem
    rm kafka.key kafka.crt
fi
# The cluster for queries has an authority of its own: whoever has one of its certificates belongs to it.
if missing cluster-ca.crt; then
    key cluster-ca.key
    openssl req -new -x509 -key cluster-ca.key -days 3650 -subj "/CN=bodycam example cluster" -out cluster-ca.crt \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
fi
missing cluster.crt && ca=cluster-ca certificate cluster bodycam-cluster
kept cluster-ca.crt cluster.crt cluster.key
kept tenant.key ./*.password s3.access s3.secret store.json store.crt store.key ca.crt gateway.crt gateway.key target.crt target.key kafka.pem
echo "$dir: ready"
