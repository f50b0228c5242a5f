#!/bin/sh
# Makes available what builds and runs images without a container engine: buildah, podman, runc, and what the smoke test talks with.
# Only `make images` and `make images-test` need it.
set -eu
. "$(dirname "$0")/common.sh"

missing=
for tool in buildah podman runc curl ss catatonit; do
    # Not on everybody's path: catatonit is podman's helper.
    have "$tool" || [ -x "/usr/libexec/podman/$tool" ] || missing="$missing $tool"
done
[ -n "$missing" ] || exit 0
apt_install buildah podman runc netavark aardvark-dns catatonit curl iproute2 || true
for tool in buildah podman runc; do
    have "$tool" || die "$tool is missing and could not be installed; install it (Debian: apt-get install buildah podman runc) and repeat"
done
