#!/bin/sh
# Makes a fresh machine a member of the hive: fetches the program from a node, proves by the secret that it comes from the hive, and
# hands over to the installer, which this script carries.
#
#   sh bootstrap.sh NODE [OPTION OF install.sh]...        NODE: host, address or [v6] of any member
#
# The secret lies in /etc/build/shared_secret. Needs a POSIX shell, sha256sum, od, sed and curl or wget. Nothing that was fetched is
# run before its HMAC is right, and the secret never becomes an argument of a program. HIVE_HTTP_PORT (8100) and HIVE_SECRET_FILE
# override the defaults.

set -eu
umask 077

port=${HIVE_HTTP_PORT:-8100}
secret_file=${HIVE_SECRET_FILE:-/etc/build/shared_secret}

fail() {
	printf 'hive bootstrap: %s\n' "$*" >&2
	exit 1
}

#@TRUST-BEGIN@
# HMAC-SHA-256 (RFC 2104) and HKDF-SHA-256 (RFC 5869) from sha256sum and the shell's own printf. Keys and texts are in hexadecimal and stay
# in variables and pipes, where other users cannot see them.

to_hex() { od -An -v -tx1 | tr -d ' \n'; }

# Writes the bytes of a hexadecimal text, each through exclusive or with $2.
write_bytes() {
	rest=$1
	escaped=
	while [ -n "$rest" ]; do
		pair=${rest%"${rest#??}"}
		rest=${rest#??}
		value=$((0x$pair ^ $2))
		escaped="$escaped\\0$((value / 64))$((value / 8 % 8))$((value % 8))"
	done
	printf '%b' "$escaped"
}

digest() { sha256sum | cut -c 1-64; }

# hmac KEY TEXT
hmac() {
	key=$1
	if [ ${#key} -gt 128 ]; then key=$(write_bytes "$key" 0 | digest); fi
	while [ ${#key} -lt 128 ]; do key="${key}00"; done
	inner=$({ write_bytes "$key" 54; write_bytes "$2" 0; } | digest)
	{ write_bytes "$key" 92; write_bytes "$inner" 0; } | digest
}

# The key that vouches for files, made of the secret as every node makes it.
export_key() {
	secret=$(cat "$1")
	secret=${secret#"${secret%%[![:space:]]*}"}
	secret=${secret%"${secret##*[![:space:]]}"}
	[ -n "$secret" ] || return 1
	extracted=$(hmac 0000000000000000000000000000000000000000000000000000000000000000 "$(printf '%s' "$secret" | to_hex)")
	hmac "$extracted" "$(printf 'hive export v1\001' | to_hex)"
}

# vouched KEY NAME FILE MAC: whether MAC says that FILE is the hive's NAME.
vouched() {
	sum=$(digest <"$3")
	[ "$(hmac "$1" "$(printf 'hive bootstrap v1\n%s\n%s\n' "$2" "$sum" | to_hex)")" = "$4" ]
}

# fetch URL FILE: patiently, since the node may be starting as well, and without a proxy, since it is near. `patience` is in attempts, of
# which one takes 2 s when nothing answers, and 7 s when nothing is there.
fetch() {
	tries=0
	until fetch_once "$1" "$2"; do
		tries=$((tries + 1))
		if [ $tries -ge "${patience:-10}" ]; then return 1; fi
		sleep 2
	done
}

fetch_once() {
	if command -v curl >/dev/null 2>&1; then
		curl -fsS --noproxy '*' --connect-timeout 5 -o "$2" "$1"
	elif command -v wget >/dev/null 2>&1; then
		http_proxy='' wget -q -T 20 -O "$2" "$1"
	elif command -v python3 >/dev/null 2>&1; then
		http_proxy='' python3 -c 'import sys, urllib.request as u; u.urlretrieve(sys.argv[1], sys.argv[2])' "$1" "$2"
	else
		fail "neither curl nor wget nor python3 is here; install one of them"
	fi
}

# Host and port of a node as a URL needs them. What else is there could change the URL's meaning.
url_of() {
	case $1 in
	'' | -* | *[!A-Za-z0-9.:_%\[\]-]*) fail "not an address: $1" ;;
	\[*\]) echo "http://$1:$port" ;;
	*:*:*) echo "http://[$1]:$port" ;;
	*:*) fail "give the node without a port (HIVE_HTTP_PORT sets the one of HTTP)" ;;
	*) echo "http://$1:$port" ;;
	esac
}
#@TRUST-END@

machine() {
	case $(uname -m) in
	amd64) echo x86_64 ;;
	arm64) echo aarch64 ;;
	i?86) echo x86 ;;
	armv*) echo arm ;;
	ppc64*) echo powerpc64 ;;
	riscv64*) echo riscv64 ;;
	*) uname -m ;;
	esac
}

main() {
	[ $# -ge 1 ] || fail "which node? sh bootstrap.sh NODE"
	node=$1
	shift
	url=$(url_of "$node")
	[ -s "$secret_file" ] || fail "write the hive's secret into $secret_file first (mode 0600)"
	key=$(export_key "$secret_file") || fail "there is no secret in $secret_file"

	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	mkdir "$dir/systemd" "$dir/openrc"
	program=hive-$(machine)
	fetch "$url/bootstrap/$program" "$dir/hive" || fail "cannot fetch $program from $url; is the node of another architecture?"
	fetch "$url/bootstrap/$program.sha256" "$dir/sum" || fail "cannot fetch the digest from $url"
	fetch "$url/bootstrap/$program.hmac" "$dir/mac" || fail "cannot fetch the HMAC from $url"
	read -r sum _ <"$dir/sum"
	read -r mac _ <"$dir/mac"
	[ "$(digest <"$dir/hive")" = "$sum" ] || fail "$program was damaged on the way; try again"
	vouched "$key" "$program" "$dir/hive" "$mac" ||
		fail "$url does not prove that $program comes from the hive: most likely the secret in $secret_file is not the hive's"
	chmod 0755 "$dir/hive"
	write_files
	case $node in *:*:*) node="[${node#\[}" && node="${node%\]}]" ;; esac
	sh "$dir/install.sh" --join "$node" "$@"
}

write_files() {
	umask 077
#@FILES@
}

main "$@"
