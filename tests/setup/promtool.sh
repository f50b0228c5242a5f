#!/bin/sh
# Makes Prometheus' checker of rules available as target/tools/bin/promtool, where Debian has it. Optional: the alert rules are checked
# without it as well, and the test that wants it says "not run".
set -eu
. "$(dirname "$0")/common.sh"

[ -x "$tools/bin/promtool" ] && exit 0
mkdir -p "$tools/bin"
for found in "${BACKHAUL_TEST_PROMTOOL:-}" "$(command -v promtool || true)"; do
    if [ -n "$found" ] && [ -x "$found" ]; then
        ln -sf "$found" "$tools/bin/promtool"
        exit 0
    fi
done

# Only the one program out of the package: the server in it would be started as a service by an installation.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
fetch() { (cd "$work" && apt-get download -qq prometheus >/dev/null 2>&1); }
if have apt-get && have dpkg-deb && { fetch || { as_root apt-get update -qq >/dev/null 2>&1 && fetch; }; } &&
    dpkg-deb --extract "$work"/prometheus_*.deb "$work/out" && "$work/out/usr/bin/promtool" --version >/dev/null 2>&1; then
    cp "$work/out/usr/bin/promtool" "$tools/bin/promtool"
else
    say "promtool cannot be had here (no Debian package prometheus): the alert rules are checked without it"
fi
