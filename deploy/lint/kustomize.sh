#!/usr/bin/env bash
# Prints where kustomize is, in the version that everything here is rendered with; installs it when it is not there.
#
#   deploy/lint/kustomize.sh TARGET_DIRECTORY
set -euo pipefail
version=v5.7.1
at=$1/deploy-lint/go/kustomize-$version
type -P go >/dev/null || { echo "Go 1.24 or newer is missing: install it from your system's packages or go.dev" >&2; exit 1; }
if [ ! -x "$at" ]; then
    GOBIN=$1/deploy-lint/go/new go install sigs.k8s.io/kustomize/kustomize/v5@$version >&2
    mv "$1/deploy-lint/go/new/kustomize" "$at"
fi
echo "$at"
