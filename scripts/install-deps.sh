#!/usr/bin/env bash
# Installs what a make target needs and the machine lacks, by Debian package name.
# usage: scripts/install-deps.sh demo|test|bench|failover|clients
set -euo pipefail

# A PostgreSQL server of 15 or newer with its tools, where packages put it or in PATH.
have_postgres() {
	local postgres version
	for postgres in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres "$(command -v postgres || true)"; do
		if [ -x "$postgres" ] && [ -x "${postgres%/*}/initdb" ] && [ -x "${postgres%/*}/pgbench" ]; then
			version=$("$postgres" --version | grep -oE '[0-9]+' | head -n 1)
			if [ "$version" -ge 15 ]; then return 0; fi
		fi
	done
	return 1
}
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
# /usr/bin/python3 is Debian's: a Python of another origin does not see its packages.
have_psycopg() { /usr/bin/python3 -c 'import psycopg' 2>/dev/null; }
have_headers() { [ -e /usr/include/stdlib.h ]; }

packages=()
need() { # need CHECK PACKAGE...
	local check=$1
	shift
	$check || packages+=("$@")
}

# postgresql-15 where the distribution has it (Debian 12), else its own default.
postgres_package() {
	if apt-cache show postgresql-15 >/dev/null 2>&1; then echo postgresql-15; else echo postgresql; fi
}

case ${1:-} in
demo | test | bench | failover | clients) ;;
*)
	echo "usage: $0 demo|test|bench|failover|clients" >&2
	exit 2
	;;
esac

want_postgres=false
have_postgres || want_postgres=true
need "have psql" postgresql-client
case $1 in
demo | test | failover | clients) # hosts in network namespaces
	need "have nsenter" util-linux
	need "have ip" iproute2
	;;
esac
case $1 in
test | clients) # drivers
	need "have python3" python3
	need have_psycopg python3-psycopg
	need "have node" nodejs
	need "have npm" npm
	;;
esac
case $1 in
test)
	need "have gcc" gcc
	need have_headers libc6-dev
	need "have nft" nftables
	need "have systemd-analyze" systemd
	;;
clients)
	need "have pgpool" pgpool2
	;;
bench)
	need "have pgbouncer" pgbouncer
	need "have pgpool" pgpool2
	need "have haproxy" haproxy
	;;
esac

if [ "${#packages[@]}" -eq 0 ] && ! $want_postgres; then
	exit 0
fi

say() { echo "install-deps: $*" >&2; }
if ! have apt-get; then
	say "this machine has no apt-get; install by hand: ${packages[*]:-} $($want_postgres && echo 'PostgreSQL 15 or newer (server and pgbench)')"
	exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
	root() { "$@"; }
elif have sudo; then
	root() { sudo "$@"; }
else
	say "neither root nor sudo: install as root: ${packages[*]:-} $($want_postgres && echo 'postgresql')"
	exit 1
fi
apt_install() { root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

# The servers that the packages bring are started by us, on ports of our own, never
# by the packages: invoke-rc.d asks this file first (Debian policy 9.3.3.1).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'root rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
	root chmod 755 "$policy"
fi

root apt-get update -q
if $want_postgres; then
	# No cluster "main": it would take memory and port 5432 of a machine that only
	# wants to try pgproxy. A configuration that is there already is somebody's choice.
	conf=/etc/postgresql-common/createcluster.conf
	if [ ! -e "$conf" ]; then
		apt_install postgresql-common
		root sed -i 's/^#\?create_main_cluster *=.*/create_main_cluster = false/' "$conf"
	fi
	packages+=("$(postgres_package)")
fi
say "installing ${packages[*]}"
apt_install "${packages[@]}"
