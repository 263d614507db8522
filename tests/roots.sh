#!/bin/sh
# Builds the root file systems that tests boot, once: a systemd machine as a cloud image is one, an OpenRC machine, and one with OpenRC
# and a real Portage that stands in for Gentoo. None has hive.
#
#   tests/roots.sh DIR      prints the directory that holds `systemd`, `openrc` and `gentoo`, and makes it when it is not there
#
# The directory is named after this recipe and the distribution of this machine, so that a changed recipe is built anew. Packages come
# from where this machine's apt gets its own. A booted test has no internet: /srv/packages of each root is a repository with the real
# packages that its role needs, none of them installed, and the only one that its apt knows.

set -eu
umask 022

common='ca-certificates,curl,iproute2,procps'
systemd="$common,systemd,systemd-sysv,dbus,cloud-init,sudo,nftables"
openrc="$common,openrc,sysvinit-core"
gentoo="$openrc,python3,gcc,libc6-dev,make,patch,wget,zstd,bzip2,xz-utils,pax-utils,file,gpg,gpg-agent,rsync"
portage=3.0.83
deadline_s=400

fail() {
	printf 'test roots: %s\n' "$*" >&2
	exit 1
}

[ $# = 1 ] || fail "usage: $0 DIR"
for tool in mmdebstrap systemd-nspawn dpkg-scanpackages flock timeout sha256sum /usr/bin/python3 meson ninja; do
	command -v $tool >/dev/null 2>&1 || fail "$tool is missing; run as root: tests/deps.sh test"
done

. /etc/os-release
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
builder=$here/../roles/builder.toml
tree=$here/portage/repo
key=$({ cat "$here/roots.sh" "$builder" /etc/os-release && cd "$tree" && find . -type f -exec sha256sum {} + | sort; } | sha256sum | cut -c 1-16)
mkdir -p "$1"
directory=$(cd "$1" && pwd)
roots=$directory/$key
if [ -e "$roots/complete" ]; then
	echo "$roots"
	exit
fi

[ "$(id -u)" = 0 ] || fail "building them needs root"
exec 9>"$directory/lock"
flock -w $((deadline_s * 2)) 9 || fail "another run is still building them"
if [ -e "$roots/complete" ]; then
	echo "$roots"
	exit
fi

# The archives of this distribution that this machine's apt uses, and no others.
sources() {
	apt-get indextargets --format '$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk -F'|' -v id="$ID" 'tolower($1) == id { print $2 }' | sort -u
}
lists=$(sources)
if [ -z "$lists" ]; then
	apt-get update -q >&2
	lists=$(sources)
fi
[ -n "$lists" ] || fail "apt here knows no archive of $ID"

# What another recipe or an interrupted run has left, known by its name and its mark.
partial=$roots.partial
for old in "$directory"/*/complete "$directory"/*.partial/.; do
	if [ -e "$old" ]; then rm -rf --one-file-system "${old%/*}"; fi
done
mkdir "$partial"

# build NAME PACKAGES ROLE-PACKAGES: the latter are loaded but not installed. An archive that does not answer is asked again: one
# missed file fails the whole root.
build() {
	for attempt in 1 2 3; do
		if printf '%s\n' "$lists" | timeout -k 10 $deadline_s mmdebstrap --quiet --variant=minbase --include="$2" \
			--aptopt='Acquire::Retries "5"' \
			--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
			--customize-hook="chroot \"\$1\" apt-get install -q -y --no-install-recommends --download-only $3" \
			--customize-hook='mkdir "$1/srv/packages" && mv "$1"/var/cache/apt/archives/*.deb "$1/srv/packages"' \
			"$VERSION_CODENAME" "$partial/$1" - >&2; then
			return
		fi
		echo "test roots: attempt $attempt to build $1 failed" >&2
		rm -rf --one-file-system "${partial:?}/$1"
		sleep 10
	done
	fail "mmdebstrap could not build $1 in three attempts"
}

# finish NAME: what a machine of the lab has that this one's archives do not give.
finish() {
	root=$partial/$1
	(cd "$root/srv/packages" && dpkg-scanpackages --multiversion . 2>/dev/null >Packages)
	rm -rf "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* "$root"/var/lib/apt/lists/*
	echo 'deb [trusted=yes] file:/srv/packages ./' >"$root/etc/apt/sources.list.d/lab.list"
	: >"$root/etc/resolv.conf"
	rm -f "$root/etc/hostname" "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
	: >"$root/etc/machine-id"
}

role_packages=$(sed -n 's/^debian = \[\(.*\)\]$/\1/p' "$builder" | tr -d '",')
[ -n "$role_packages" ] || fail "no packages in $builder"
build systemd "$systemd" "$role_packages" &
first=$!
build openrc "$openrc" jq &
second=$!
build gentoo "$gentoo" jq &
third=$!
for one in $first $second $third; do wait $one || exit 1; done

finish systemd
root=$partial/systemd
mkdir -p "$root/var/log/journal"
# As a cloud image for a machine whose addresses come from outside: the seed directory is the datasource.
cat >"$root/etc/cloud/cloud.cfg.d/90-lab.cfg" <<'END'
datasource_list: [NoCloud, None]
network: {config: disabled}
locale: false
apt: {preserve_sources_list: true}
END

for name in openrc gentoo; do
	finish $name
	root=$partial/$name
	# What asks for disks, a clock and terminals, which a container has not.
	for service in checkfs.sh checkroot.sh checkroot-bootclean.sh hwclock.sh; do
		rm -f "$root"/etc/runlevels/*/$service
	done
	sed -i '/getty/d' "$root/etc/inittab"
done

# Portage as its own build installs it below /usr: in a virtual environment it would take that for its prefix. Gentoo calls Python so.
root=$partial/gentoo
/usr/bin/python3 -m venv "$partial/pip"
"$partial/pip/bin/pip" download -q --no-binary portage --no-deps --dest "$partial/sources" "portage==$portage" >&2
tar -xf "$partial/sources/portage-$portage.tar.gz" -C "$partial/sources"
meson setup "$partial/sources/build" "$partial/sources/portage-$portage" --prefix=/usr --sysconfdir=/etc --localstatedir=/var >"$partial/sources/log" ||
	fail "Portage cannot be configured: $(cat "$partial/sources/log")"
DESTDIR=$root meson install --quiet -C "$partial/sources/build" >"$partial/sources/log" || fail "Portage cannot be installed: $(cat "$partial/sources/log")"
rm -rf "$partial/pip" "$partial/sources"
ln -s python3 "$root/usr/bin/python"
chroot "$root" groupadd --system --gid 250 portage
chroot "$root" useradd --system --uid 250 --gid 250 --home-dir /var/lib/portage/home --shell /usr/sbin/nologin portage
mkdir -p "$root/var/db/repos" "$root/etc/portage"
cp -R "$tree" "$root/var/db/repos/tiny"
printf '[DEFAULT]\nmain-repo = tiny\n\n[tiny]\nlocation = /var/db/repos/tiny\nauto-sync = no\n' >"$root/usr/share/portage/config/repos.conf"
ln -s /var/db/repos/tiny/profiles/tiny "$root/etc/portage/make.profile"
# There is no program sandbox outside of Gentoo.
echo 'FEATURES="-sandbox -usersandbox"' >"$root/etc/portage/make.conf"

touch "$partial/complete"
mv "$partial" "$roots"
echo "$roots"
