#!/usr/bin/env bash
# Looks at everything in deploy/ with the linters that there are for it. What they need is installed below the target
# directory: Python tools by pip, kustomize, kube-score and the parser of the compose specification by go.
#
#   deploy/lint/lint.sh TARGET_DIRECTORY
set -euo pipefail
tools=$1/deploy-lint
cd "$(dirname "$0")/../.."
for program in python3 go systemd-analyze; do
    type -P $program >/dev/null || { echo "$program is missing: deploy/prerequisites.sh installs python3, your system has packages of systemd and of Go (1.24 or newer)" >&2; exit 1; }
done
mkdir -p "$tools"
if ! cmp -s deploy/lint/requirements.txt "$tools/requirements.txt"; then
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r deploy/lint/requirements.txt
    cp deploy/lint/requirements.txt "$tools/requirements.txt"
fi
# go_tool NAME MODULE@VERSION [NAME OF ITS BINARY]
go_tool() {
    local at=$tools/go/$1-${2##*@}
    [ -x "$at" ] || { GOBIN=$tools/go/new GOFLAGS='' go install "$2" && mv "$tools/go/new/${3:-$1}" "$at"; }
    ln -sf "$1-${2##*@}" "$tools/go/$1"
}
kustomize=$(deploy/lint/kustomize.sh "$1")
go_tool kube-score github.com/zegl/kube-score/cmd/kube-score@v1.20.0
go_tool compose-spec github.com/compose-spec/compose-go/v2/cmd@v2.9.0 cmd
export PATH="$tools/venv/bin:$tools/go:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { printf '== %s\n' "$1"; }

step "shell: syntax"
for script in $(git ls-files deploy | grep '\.sh$'); do bash -n "$script"; done

step "yamllint"
git ls-files deploy | grep -E '\.ya?ml$' | xargs yamllint --strict -c deploy/lint/yamllint.yaml

step "images: hadolint, checkov"
hadolint deploy/Containerfile
cp deploy/Containerfile "$work/Dockerfile"
checkov --quiet --compact --skip-download --framework dockerfile --file "$work/Dockerfile"

step "compose: specification, compose-lint"
compose-spec deploy/compose/compose.yaml >/dev/null
compose-lint check --config deploy/lint/compose-lint.yaml deploy/compose/compose.yaml

step "kubernetes: rendered manifests are those of the sources"
for overlay in dev production cluster; do
    deploy/kubernetes/render.sh "$kustomize" $overlay > "$work/$overlay.yaml"
    cmp "$work/$overlay.yaml" deploy/kubernetes/rendered/$overlay.yaml || { echo "run: make deploy-render" >&2; exit 1; }
done
for part in agents targets; do "$kustomize" build deploy/kubernetes/$part > "$work/$part.yaml"; done

step "kubernetes: schemas of the oldest and the newest version that are meant to work"
for version in 1.31.0 1.37.0; do
    kubernetes-validate --strict --quiet -k $version "$work"/*.yaml
done

# Left out, with the reason:
#   pod-networkpolicy of what only the API knows, image pull policy (tags of releases do not move; production mirrors pin
#   digests), host anti-affinity (topology spread does it), the user id of images of others, probes of readiness and liveness
#   alike where a port is all that there is to ask, headless names of single pods.
step "kubernetes: kube-score"
for overlay in dev production cluster; do
    kube-score score --kubernetes-version v1.31 \
        --ignore-test container-image-pull-policy --ignore-test statefulset-has-host-podantiaffinity \
        --ignore-test container-security-context-user-group-id --ignore-test pod-probes-identical \
        --ignore-test statefulset-has-servicename --output-format ci "$work/$overlay.yaml" | { grep -E '^\[(CRITICAL|WARNING)\]' && exit 1 || true; }
done

# CKV_K8S_43, CKV_K8S_15: digests and pulls, as above. CKV_K8S_40: users of images of others.
step "kubernetes: checkov"
for overlay in dev production cluster; do
    checkov --quiet --compact --skip-download --framework kubernetes --skip-check CKV_K8S_43,CKV_K8S_15,CKV_K8S_40 \
        --file "$work/$overlay.yaml"
done

step "systemd: verify, security (exposure at most 2.0), sysusers, tmpfiles"
root=$work/root
mkdir -p "$root/etc/systemd/system" "$root/usr/bin" "$root/bin" "$root/usr/lib/systemd"
cp -r /usr/lib/systemd/system "$root/usr/lib/systemd/" 2>/dev/null || cp -r /lib/systemd/system "$root/usr/lib/systemd/"
for program in usr/bin/bodycam bin/kill; do install -m 0755 /bin/true "$root/$program"; done
cp deploy/systemd/*.service "$root/etc/systemd/system/"
for unit in gateway recorder detect; do
    said=$(systemd-analyze verify --root="$root" --man=no bodycam-$unit.service 2>&1)
    [ -z "$said" ] || { echo "$said" >&2; exit 1; }
    systemd-analyze security --offline=true --root="$root" --threshold=20 --no-pager bodycam-$unit.service | tail -n 1
done
for program in systemd-sysusers systemd-tmpfiles; do type -P $program >/dev/null || { echo "$program is missing: it comes with systemd" >&2; exit 1; }; done
touch "$root/etc/passwd" "$root/etc/group"
systemd-sysusers --root="$root" - < deploy/systemd/bodycam.sysusers >/dev/null 2>&1
grep -q '^bodycam-recorder:' "$root/etc/passwd"
systemd-tmpfiles --root="$root" --create - < deploy/systemd/bodycam.tmpfiles
[ "$(stat -c %a "$root/etc/bodycam/credentials")" = 700 ]
echo "deploy: clean"
