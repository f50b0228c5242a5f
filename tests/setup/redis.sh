#!/bin/sh
# Makes `redis-server` and `redis-cli` available: tests and demo start servers of their own with them.
set -eu
. "$(dirname "$0")/common.sh"

have redis-server && have redis-cli && exit 0

# The Debian package registers a service. Backhaul wants the program only: nothing may start now, or at the next boot.
policy=/usr/sbin/policy-rc.d
forbid_start() {
    [ ! -e "$policy" ] || return 0
    as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy" || return 0
    trap 'as_root rm -f "$policy"' EXIT
}

if have apt-get; then
    forbid_start
    apt_install redis-server redis-tools || true
    if have redis-server && have systemctl; then
        as_root systemctl disable --quiet redis-server >/dev/null 2>&1 || true
    fi
fi

{ have redis-server && have redis-cli; } ||
    die "redis-server is missing and could not be installed; install Redis 7.0 or newer (Debian: redis-server redis-tools," \
        "Fedora: redis, macOS: brew install redis) and repeat"
