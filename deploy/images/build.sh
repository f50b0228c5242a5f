#!/usr/bin/env bash
# What `make images` runs: packs the dispatcher and the worker into images with buildah. Needs no container engine, no registry and no
# base image. Leaves archives that `podman load`, `docker load` and `kind load image-archive` take.
#
#   PROFILE=dist   cargo profile of the programs (they are built first)
#   PROGRAMS=DIR   folder with programs that are already built; nothing is built then
#   IMAGES=DIR     where the archives and buildah's storage go
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
profile=${PROFILE:-dist}
images=$(realpath -m "${IMAGES:-$target/images}")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
# The time of the commit, so that the same programs give the same image.
created=$(git log -1 --format=%ct 2>/dev/null || echo 0)

if [ -z "${PROGRAMS:-}" ]; then
    # What `--version` says it was built from.
    export BACKHAUL_COMMIT=$revision
    cargo build --profile "$profile" --locked --package backhaul-dispatcher --package backhaul-worker --bins
    PROGRAMS=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
fi

mkdir -p "$images"
context=$(mktemp -d "$images/context.XXXXXX")
trap 'rm -rf "$context"' EXIT
# The machine's own configuration may name a network that is not set up; none is needed here.
printf '[network]\nnetwork_backend = "netavark"\n' >"$context/containers.conf"
export CONTAINERS_CONF=$context/containers.conf
# Storage of our own: nothing of the machine's is read, changed or left behind.
storage=(--root "$images/storage" --runroot "$images/run")

for part in dispatcher worker; do
    name=backhaul-$part
    deploy/images/rootfs.sh "$PROGRAMS/$name" "$context/$part"
done
for part in dispatcher worker; do
    name=backhaul-$part
    buildah "${storage[@]}" bud --quiet --isolation chroot --timestamp "$created" \
        --file deploy/images/Containerfile.prebuilt --target "$part" \
        --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
        --tag "localhost/$name:$version" "$context" >/dev/null
    rm -f "$images/$name.tar"
    buildah "${storage[@]}" push --quiet "localhost/$name:$version" "docker-archive:$images/$name.tar:localhost/$name:$version"
    kib=$(du -sk "$context/$part" | cut -f1)
    printf 'image localhost/%s:%s: %d.%d MiB in %s\n' \
        "$name" "$version" $((kib / 1024)) $((kib % 1024 * 10 / 1024)) "$images/$name.tar"
    # What design allows; strip what crept in, or raise it on purpose.
    [ "$profile" != dist ] || [ "$kib" -le $((30 * 1024)) ] || { echo "image: larger than 30 MiB" >&2; exit 1; }
done
