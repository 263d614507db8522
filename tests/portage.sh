#!/bin/sh
# Makes a real Portage with a small package tree, for tests: nothing of it is outside of the directory.
#
#   tests/portage.sh CACHE PLACE      PLACE is made: venv (Portage), repo (tests/portage/repo), root (where packages are installed), config
#
# Portage comes from the Python registry, once, into CACHE. Its "running" prefix is the venv, which therefore has a configuration of
# its own. What a test builds is not isolated by Portage: there is no user portage and no program sandbox here.

set -eu
umask 022

version=3.0.83
# Not whatever python3 the caller's path has: other users must be able to run it.
python=/usr/bin/python3

fail() {
	printf 'test portage: %s\n' "$*" >&2
	exit 1
}

[ $# = 2 ] || fail "usage: $0 CACHE PLACE"
for tool in $python flock gcc scanelf zstd patch wget bzip2; do
	command -v $tool >/dev/null 2>&1 || fail "$tool is missing; run as root: tests/deps.sh test"
done
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

mkdir -p "$1"
cache=$(cd "$1" && pwd)
exec 9>"$cache/lock"
flock -w 300 9 || fail "another run is still loading it"
if [ ! -e "$cache/complete-$version" ]; then
	rm -rf --one-file-system "$cache/pip" "$cache/wheels"
	$python -m venv "$cache/pip"
	"$cache/pip/bin/pip" download -q --no-deps --dest "$cache/wheels" "portage==$version" >&2
	touch "$cache/complete-$version"
fi
flock -u 9

mkdir -p "$2/root" "$2/config" "$2/dist" "$2/log" "$2/pkgs" "$2/tmp"
place=$(cd "$2" && pwd)
$python -m venv --without-pip "$place/venv"
"$cache/pip/bin/pip" --python "$place/venv/bin/python3" install -q --no-index --no-deps --find-links "$cache/wheels" "portage==$version" >&2
cp -R "$here/portage/repo" "$place/repo"

for prefix in "$place/venv" "$place/config"; do
	mkdir -p "$prefix/etc/portage"
	ln -s "$place/repo/profiles/tiny" "$prefix/etc/portage/make.profile"
	cat >"$prefix/etc/portage/make.conf" <<END
PKGDIR="$place/pkgs"
DISTDIR="$place/dist"
PORTAGE_TMPDIR="$place/tmp"
PORTAGE_USERNAME="root"
PORTAGE_GRPNAME="root"
FEATURES="-sandbox -usersandbox -userpriv -userfetch -usersync -ipc-sandbox -network-sandbox -pid-sandbox -news"
BINPKG_FORMAT="gpkg"
BINPKG_COMPRESS="zstd"
END
done
