#!/bin/sh
# Lays out the whole root of an image for one program: usage `rootfs.sh PROGRAM NEW_FOLDER`.
#
# Shared by both container files, so that an image of prebuilt programs and one built from source hold the same: the program, the
# libraries it is linked to and nothing else that could run (no shell, no package manager), what resolves names, and the roots of trust
# for TLS. Must run where the program was built: the libraries are taken from there.
set -eu

program=$1
root=$2
name=$(basename "$program")
roots_of_trust=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

die() {
    printf 'rootfs: %s\n' "$*" >&2
    exit 1
}
[ -x "$program" ] || die "$program is not a program; build it first"
[ -s "$roots_of_trust" ] || die "no roots of trust in $roots_of_trust (Debian: apt-get install ca-certificates)"
[ ! -e "$root" ] || die "$root exists already"

mkdir -p "$root/usr/bin" "$root/etc/ssl/certs"
install -m 0755 "$program" "$root/usr/bin/$name"
install -m 0644 "$roots_of_trust" "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -m 1777 "$root/tmp"

# `ldd` names the interpreter and all libraries with their whole paths; what the kernel provides has none. A static program has no
# libraries, and `ldd` fails for it.
libraries=$(ldd "$program" 2>/dev/null | sed -n 's|.*[[:space:]]\(/[^ ]*\) (0x.*|\1|p') || true
for library in $libraries; do
    install -D -m 0755 "$library" "$root$library"
done

# What glibc needs to find the host of a URL: hosts file first, then DNS, both inside libc itself.
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nbackhaul:x:65532:65532:backhaul:/:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nbackhaul:x:65532:\n' >"$root/etc/group"
