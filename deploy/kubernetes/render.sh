#!/usr/bin/env bash
# Prints the manifests of an overlay as they are applied, under a digest of what they are made of: a test compares that, so
# that it needs no kustomize.
#
#   deploy/kubernetes/render.sh KUSTOMIZE OVERLAY
set -euo pipefail
kustomize=$1 overlay=$2
cd "$(dirname "$0")/../.."
# The overlay `cluster` stands on the one for production.
sources=$(git ls-files deploy/kubernetes/base deploy/kubernetes/cluster deploy/kubernetes/overlays/production \
    deploy/kubernetes/overlays/"$overlay" deploy/kafka deploy/target | LC_ALL=C sort -u)
digest=$(echo "$sources" | xargs cat | sha256sum | cut -d ' ' -f 1)
echo "# Made by \`make deploy-render\` from overlays/$overlay; not to be edited."
echo "# sources sha256 $digest"
"$kustomize" build deploy/kubernetes/overlays/"$overlay"
