#!/bin/sh
# Installs what building (`build`), trying (`try`) and testing (`test`) need and this machine lacks, on Debian and Ubuntu. Elsewhere it
# names what is missing. Asks the package manager only when something is.

set -eu

build='build-essential pkg-config ca-certificates'
# The dashboard is built with npm, unless it comes from elsewhere. Often it is there in a newer version than the distribution's.
if [ -z "${HIVE_WEB_DIST:-}" ] && ! command -v npm >/dev/null 2>&1; then build="$build nodejs npm"; fi
try="$build git curl dpkg-dev debhelper fakeroot iproute2"
java="maven maven-debian-helper junit4 libsurefire-java equivs"
test="$try $java bubblewrap nftables systemd systemd-container mmdebstrap cloud-init dash openssl procps python3 python3-venv meson pax-utils patch wget zstd lzip xz-utils bzip2 gnupg gpgv chromium fonts-dejavu-core"

case ${1:-} in
build) wanted=$build ;;
try) wanted=$try ;;
test) wanted=$test ;;
*)
	echo "usage: $0 build|try|test" >&2
	exit 2
	;;
esac

if ! command -v dpkg-query >/dev/null 2>&1; then
	missing=
	for tool in cc git curl ip npm; do command -v $tool >/dev/null 2>&1 || missing="$missing $tool"; done
	[ -z "$missing" ] && exit 0
	echo "missing:$missing; install them with your package manager" >&2
	exit 1
fi

missing=
for package in $wanted; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null 2>&1 || {
		echo "missing:$missing; install them as root: apt-get install$missing" >&2
		exit 1
	}
	as_root=sudo
fi
echo "installing:$missing"
$as_root apt-get update -q
# shellcheck disable=SC2086 # a list of words is meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
