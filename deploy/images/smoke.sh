#!/usr/bin/env bash
# What `make images-test` runs: starts both images with podman as the manifests start them (nobody's user, no capabilities, read-only
# root, bounded memory and processes), beside a real Redis and a real S3 server, looks at the processes from inside the kernel, has one
# object backed up, stops both with SIGTERM, and compares the copy byte for byte. Then the same with deploy/single-machine, played by
# podman. Everything is on loopback and gone afterwards.
#
# Needs root (or user namespaces), buildah, podman and runc: tests/setup/containers.sh. Settings as for build.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
images=$(realpath -m "${IMAGES:-$target/images}")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
backhaul=${BACKHAUL:-$target/${PROFILE:-dist}/backhaul}
weed=$target/tools/bin/weed
run=$(mktemp -d)
children=()
failed=1

say() { printf 'images-test: %s\n' "$*"; }
die() {
    say "$*" >&2
    exit 1
}

cat >"$run/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
CONF
export CONTAINERS_CONF=$run/containers.conf
podman() { command podman --root "$images/storage" --runroot "$images/run" "$@"; }

clean_up() {
    [ ! -e "$run/backhaul.yaml" ] || podman kube down "$run/backhaul.yaml" >/dev/null 2>&1 || true
    podman volume rm --force backhaul-redis >/dev/null 2>&1 || true
    for name in dispatcher worker; do
        [ "$failed" = 0 ] || podman logs --tail 20 "$name-$$" 2>&1 | sed "s/^/  $name: /" || true
        podman rm --force --time 1 "$name-$$" >/dev/null 2>&1 || true
    done
    # Not in order: what they hold is thrown away.
    for child in "${children[@]}"; do kill -KILL "$child" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$run"
}
trap clean_up EXIT

# Waits for a command to succeed; the time only separates "slow" from "never".
eventually() {
    local what=$1 deadline=$((SECONDS + 90))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || die "$what: not within 90 s"
        sleep 0.1
    done
}

# Ports that are free now and below those that the kernel gives to anybody: SeaweedFS uses each one's tenth thousand above it too.
base=$((20000 + RANDOM % 4000))
free_port() {
    base=$((base + 1))
    while ss -Hltn "( sport = :$base or sport = :$((base + 10000)) )" | grep -q .; do base=$((base + 1)); done
    port=$base
}
free_port; redis=$port
free_port; s3=$port
free_port; grpc=$port

say "a Redis with an append-only file, and an S3 server"
mkdir "$run/redis" "$run/weed" "$run/config"
redis-server --port "$redis" --bind 127.0.0.1 --dir "$run/redis" --save "" --appendonly yes --appendfsync always \
    --maxmemory-policy noeviction >"$run/redis.log" &
children+=($!)
printf '{"identities":[{"name":"test","credentials":[{"accessKey":"test","secretKey":"not-a-secret"}],%s}]}' \
    '"actions":["Admin","Read","Write","List","Tagging"]' >"$run/identities.json"
ports=()
for flag in master.port volume.port filer.port s3.port.iceberg s3.port.lance; do free_port; ports+=("-$flag=$port"); done
"$weed" -logtostderr=true server -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.port="$s3" -s3.config="$run/identities.json" \
    -dir="$run/weed" -master.volumeSizeLimitMB=256 -master.telemetry=false -volume.max=100 "${ports[@]}" >"$run/weed.log" 2>&1 &
children+=($!)

s3() { curl --silent --fail --aws-sigv4 aws:amz:us-east-1:s3 --user test:not-a-secret "$@"; }
head -c 3000000 /dev/urandom >"$run/object"
eventually "a bucket in the S3 server" s3 -X PUT "http://127.0.0.1:$s3/uploads"
eventually "a bucket in the S3 server" s3 -X PUT "http://127.0.0.1:$s3/backups"
eventually "an object in the S3 server" s3 --upload-file "$run/object" "http://127.0.0.1:$s3/uploads/users/7/cat.jpg"

# `localhost` everywhere: a program in an image without a resolver would stop here.
cat >"$run/config/locations.toml" <<TOML
[location.uploads]
endpoint = "http://localhost:$s3"
region = "us-east-1"
path_style = true
credentials = { file = "/etc/backhaul/stores.keys" }
[[location.uploads.read]]
bucket = "uploads"
tenants = ["*"]
[location.uploads.backup]
location = "vault"
bucket = "backups"
prefix = "copies"
[location.vault]
endpoint = "http://localhost:$s3"
region = "us-east-1"
path_style = true
credentials = { file = "/etc/backhaul/stores.keys" }
TOML
printf 'test\nnot-a-secret\n' >"$run/config/stores.keys"
chmod -R a+rX "$run"

start() {
    local part=$1
    shift
    podman run --detach --name "$part-$$" --network host --read-only --tmpfs /tmp:rw,size=16m --cap-drop all \
        --security-opt no-new-privileges --memory 512m --pids-limit 64 --volume "$run/config:/etc/backhaul:ro" \
        "localhost/backhaul-$part:$version" "$@" >/dev/null
}
say "both images"
start dispatcher --insecure --listen "127.0.0.1:$grpc" --redis-url "redis://localhost:$redis/0" --locations /etc/backhaul/locations.toml
start worker --insecure --dispatcher "http://localhost:$grpc" --locations /etc/backhaul/locations.toml --memory 64MiB

# Asked of the kernel, not of podman.
status() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }
for part in dispatcher worker; do
    pid=$(podman inspect --format '{{.State.Pid}}' "$part-$$")
    [ "$pid" -gt 0 ] || die "the $part has ended"
    [ "$(status "$pid" Uid | tr -s '\t ' ' ')" = "65532 65532 65532 65532" ] || die "the $part runs as $(status "$pid" Uid)"
    for set in CapInh CapPrm CapEff CapBnd CapAmb; do
        [ "$(status "$pid" $set)" = 0000000000000000 ] || die "the $part has $set $(status "$pid" $set)"
    done
    [ "$(status "$pid" NoNewPrivs)" = 1 ] || die "the $part may gain privileges"
    [ "$(status "$pid" Seccomp)" = 2 ] || die "the $part may make any system call"
    grep -Eq '^[^ ]+ [^ ]+ [^ ]+ [^ ]+ / ro[, ]' "/proc/$pid/mountinfo" || die "the $part may write to its image"
    root=/proc/$pid/root
    for shell in bin/sh usr/bin/sh bin/busybox; do [ ! -e "$root/$shell" ] || die "the $part's image has a shell"; done
    [ "$(find "$root/usr/bin" -type f)" = "$root/usr/bin/backhaul-$part" ] || die "the $part's image has more than one program"
    grep -q 'BEGIN CERTIFICATE' "$root/etc/ssl/certs/ca-certificates.crt" || die "the $part trusts nobody"
    say "$part: uid 65532, no capabilities, no new privileges, seccomp on, read-only root, one program"
done

say "one backup"
eventually "the dispatcher" "$backhaul" list --insecure --dispatcher "http://127.0.0.1:$grpc"
timeout 90 "$backhaul" submit --insecure --dispatcher "http://127.0.0.1:$grpc" --watch uploads:uploads/users/7/cat.jpg
listing=$(s3 "http://127.0.0.1:$s3/backups?list-type=2&prefix=copies%2Fuploads%2F") || die "the copies cannot be listed"
key=$(sed -n 's|.*<Key>\(copies/[^<]*cat.jpg[^<]*\)</Key>.*|\1|p' <<<"$listing")
s3 "http://127.0.0.1:$s3/backups/$key" | cmp - "$run/object" || die "the copy \`$key\` differs"
say "the copy $key is the object, byte for byte"

for part in worker dispatcher; do
    podman stop --time 40 "$part-$$" >/dev/null
    code=$(podman inspect --format '{{.State.ExitCode}}' "$part-$$")
    [ "$code" = 0 ] || die "the $part ended with $code after SIGTERM"
done
say "both stopped in order"

# The file for one machine, with free ports, and on the machine's own network because the stores of this test are on loopback.
server=$target/tools/bin/redis-server-8
if [ ! -x "$server" ]; then
    failed=0
    say "single machine: not run, because it wants Redis 7.2 or newer (tests/setup/redis8.sh); the rest passed"
    exit 0
fi
say "a stand-in for the image of Redis, because no registry can be reached: the same program"
mkdir -p "$run/redis-image/data" "$run/etc/locations" "$run/etc/stores"
cp "$(realpath "$server")" "$run/redis-server"
deploy/images/rootfs.sh "$run/redis-server" "$run/redis-image/root"
image=$(sed -n 's/^ *image: \(docker.io.*redis.*\)/\1/p' deploy/single-machine/backhaul.yaml)
printf 'FROM scratch\nCOPY root/ /\nCOPY --chown=999:999 data/ /data/\n' >"$run/redis-image/Containerfile"
touch "$run/redis-image/data/.keep"
buildah --root "$images/storage" --runroot "$images/run" bud --quiet --isolation chroot --tag "$image" "$run/redis-image" >/dev/null

cp "$run/config/locations.toml" "$run/etc/locations/"
cp "$run/config/stores.keys" "$run/etc/stores/"
sed -i 's|/etc/backhaul/stores.keys|/etc/backhaul/stores/stores.keys|' "$run/etc/locations/locations.toml"
chown -R 65532 "$run/etc/stores" && chmod 0700 "$run/etc/stores" && chmod 0400 "$run/etc/stores/stores.keys"
chmod a+x "$run/etc" && chmod -R a+rX "$run/etc/locations"
free_port; redis=$port
free_port; grpc=$port
sed -e "s# path: /etc/backhaul/# path: $run/etc/#; s#0.0.0.0:7400#127.0.0.1:$grpc#; s#127.0.0.1:7400#127.0.0.1:$grpc#" \
    -e "s#127.0.0.1:6379#127.0.0.1:$redis#; s#bind 127.0.0.1#bind 127.0.0.1\n    port $redis#" \
    -e 's#^  restartPolicy: .*#&\n  hostNetwork: true#' -e '/ ports:$/d; /hostPort:/d; /hostIP:/d; /name: grpc/d; /containerPort:/d' \
    -e "s#\(localhost/backhaul-[a-z]*\):.*#\1:$version#" deploy/single-machine/backhaul.yaml >"$run/backhaul.yaml"

say "the single machine's pod"
podman kube play "$run/backhaul.yaml" >/dev/null
eventually "the pod's dispatcher" "$backhaul" list --insecure --dispatcher "http://127.0.0.1:$grpc"
timeout 90 "$backhaul" submit --insecure --dispatcher "http://127.0.0.1:$grpc" --watch uploads:uploads/users/7/cat.jpg
for name in redis dispatcher worker; do
    state=$(podman inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.EffectiveCaps}}' "backhaul-$name")
    [ "$state" = "true []" ] || die "the pod's $name may write to its image or has capabilities: $state"
done
podman kube down "$run/backhaul.yaml" >/dev/null
podman kube play "$run/backhaul.yaml" >/dev/null
eventually "the pod's dispatcher, once more" "$backhaul" list --insecure --dispatcher "http://127.0.0.1:$grpc"
"$backhaul" list --insecure --dispatcher "http://127.0.0.1:$grpc" | grep -q 'done .*users/7/cat.jpg' || die "the queue did not outlive its pod"
failed=0
say "the pod backs up, and its queue outlives it; passed"
