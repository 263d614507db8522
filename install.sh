#!/bin/sh
# Puts hive onto this machine and starts it: program, units for the init system found, user, firewall, `join` addresses.
#
#   sudo sh install.sh [--join HOST[:PORT]]... [--name NAME] [--prefix DIR] [--deadline SECONDS] [--no-start]
#   sh install.sh --files-only --destdir DIR [--prefix DIR]      (for packages: copies files, touches nothing else)
#
# Run from a release directory: the program `hive` lies beside this script, or in target/release of a source tree. Needs a POSIX
# shell and nothing else. Running it again is an upgrade. It ends well only when this node has an identity.

set -eu
# Directories made here are for everyone, whatever the caller's habits.
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/usr/local
destdir=
files_only=no
start=yes
joins=
name=
deadline=60
etc=/etc/build
state=/var/lib/build
init=

say() { printf '%s\n' "$*"; }

log_tail() {
	case $init in
	systemd) journalctl --no-pager --lines=40 --unit=hive --unit=hive-helper 2>/dev/null || true ;;
	openrc) tail -n 40 /var/log/hive/hive.log /var/log/hive-helper.log 2>/dev/null || true ;;
	esac
}

fail() {
	say "hive: $*" >&2
	exit 1
}

usage() {
	sed -n '2,9s/^# \{0,1\}//p' "$here/install.sh" >&2
	exit 2
}

# Host, address or [v6], with or without port. What else is there could break out of the configuration file.
check_join() {
	case $1 in
	'' | *[!A-Za-z0-9.:_%\[\]-]*) fail "not an address: $1" ;;
	esac
}

parse() {
	while [ $# -gt 0 ]; do
		case $1 in
		--files-only) files_only=yes ;;
		--no-start) start=no ;;
		--join | --name | --prefix | --destdir | --deadline)
			[ $# -ge 2 ] || usage
			case $1 in
			--join) check_join "$2" && joins="$joins $2" ;;
			--name) name=$2 ;;
			--prefix) prefix=$2 ;;
			--destdir) destdir=$2 ;;
			--deadline) deadline=$2 ;;
			esac
			shift
			;;
		*) usage ;;
		esac
		shift
	done
	case $name in *[!A-Za-z0-9._-]*) fail "not a node name: $name" ;; esac
	case $deadline in '' | *[!0-9]*) fail "not a number of seconds: $deadline" ;; esac
	case $prefix in /*) ;; *) fail "the prefix is an absolute path" ;; esac
}

find_program() {
	for program in "$here/hive" "$here/target/release/hive"; do
		if [ -f "$program" ] && [ -x "$program" ]; then return; fi
	done
	fail "no program beside this script; build it with: make build"
}

find_init() {
	if [ -d /run/systemd/system ]; then
		init=systemd
	elif [ -d /run/openrc ] || command -v openrc-run >/dev/null 2>&1; then
		init=openrc
	else
		fail "neither systemd nor OpenRC runs here; start it yourself: hive agent"
	fi
}

# copy MODE FROM TO: complete or not at all, also over a program that runs.
copy() {
	mkdir -p "$(dirname "$3")"
	cp "$2" "$3.new"
	chmod "$1" "$3.new"
	mv -f "$3.new" "$3"
}

# The same for unit files, which name the program by its path.
copy_unit() {
	mkdir -p "$(dirname "$3")"
	sed "s#/usr/local/bin/hive#$prefix/bin/hive#g" "$2" >"$3.new"
	chmod "$1" "$3.new"
	mv -f "$3.new" "$3"
}

copy_files() {
	copy 0755 "$program" "$destdir$prefix/bin/hive"
	if [ "$init" != openrc ]; then
		# A unit below /etc would hide what an administrator or a package puts elsewhere.
		units=/usr/local/lib/systemd/system
		if [ "$prefix" = /usr ]; then units=/usr/lib/systemd/system; fi
		copy_unit 0644 "$here/systemd/hive.service" "$destdir$units/hive.service"
		copy_unit 0644 "$here/systemd/hive-helper.service" "$destdir$units/hive-helper.service"
	fi
	if [ "$init" != systemd ]; then
		copy_unit 0755 "$here/openrc/hive" "$destdir/etc/init.d/hive"
		copy_unit 0755 "$here/openrc/hive-helper" "$destdir/etc/init.d/hive-helper"
	fi
}

has_group() { grep -q "^$1:" /etc/group; }
has_user() { grep -q "^$1:" /etc/passwd; }

# The agent's user, the one that builds run as, and the group of those who may use the local socket.
make_users() {
	make_group hive
	make_group hive-build
	make_group hive-admin
	make_user hive $state
	make_user hive-build /nonexistent
}

make_group() {
	has_group "$1" && return
	if command -v groupadd >/dev/null 2>&1; then groupadd --system "$1"; else addgroup -S "$1"; fi
}

# make_user NAME HOME
make_user() {
	has_user "$1" && return
	shell=/usr/sbin/nologin
	[ -x $shell ] || shell=/bin/false
	if command -v useradd >/dev/null 2>&1; then
		useradd --system --gid "$1" --home-dir "$2" --no-create-home --shell $shell --comment 'hive build cluster' "$1"
	else
		adduser -S -D -H -h "$2" -s $shell -G "$1" "$1"
	fi
}

# The configuration gets what was said here; what an operator wrote stays.
configure() {
	install -d -o root -g hive -m 1775 $etc
	# The agent may create files in this directory: nothing here is written through a name that it could have made first.
	if [ -L $etc/hive.toml ]; then fail "$etc/hive.toml is a link; put the file itself there"; fi
	if [ ! -e $etc/hive.toml ]; then mv -f "$(mktemp $etc/hive.toml.XXXXXX)" $etc/hive.toml; fi
	setting name "${name:+\"$name\"}"
	list=
	for address in $joins; do list="${list:+$list, }\"$address\""; done
	setting join "${list:+[$list]}"
	chmod 0644 $etc/hive.toml
}

# setting KEY VALUE: writes it before everything else, since later lines may belong to a table. An empty value changes nothing.
setting() {
	[ -n "$2" ] || return 0
	if grep -q "^[[:space:]]*$1[[:space:]]*=[[:space:]]*\[[^]]*\$" $etc/hive.toml; then
		fail "$etc/hive.toml has a list $1 over several lines; put $2 there yourself"
	fi
	new=$(mktemp $etc/hive.toml.XXXXXX)
	{
		printf '%s = %s\n' "$1" "$2"
		sed "/^[[:space:]]*\[/,\$!{/^[[:space:]]*$1[[:space:]]*=/d;}" $etc/hive.toml
	} >"$new"
	mv -f "$new" $etc/hive.toml
}

# check_settings [FLAG]...: by the rules of the program itself, which says what is wrong.
check_settings() {
	"$program" config show "$@" >/dev/null || fail "with these settings it would not start; nothing was started"
}

# Discovery and liveness (UDP), mesh (TCP) and HTTP.
open_firewall() {
	if command -v ufw >/dev/null 2>&1 && ufw status 2>/dev/null | grep -q '^Status: active'; then
		for port in 50555/udp 50555/tcp 8100/tcp 5353/udp; do ufw allow $port >/dev/null; done
		say "firewall: opened 50555/udp, 50555/tcp, 8100/tcp, 5353/udp (ufw)"
	elif command -v nft >/dev/null 2>&1; then
		open_nftables
	fi
}

# Every chain that filters what comes in and drops or rejects something. A rule of ours is known by its comment.
open_nftables() {
	chains=$(nft list chains 2>/dev/null | awk '
		$1 == "table" { family = $2; table = $3 }
		$1 == "chain" { chain = $2 }
		/hook input/ && /type filter/ && family ~ /^(inet|ip|ip6)$/ { print family, table, chain }')
	[ -n "$chains" ] || return 0
	rules=
	while read -r family table chain; do
		# A chain that is full of accepting and never refuses needs no rule.
		listed=$(nft list chain "$family" "$table" "$chain")
		case $listed in *'policy drop'* | *drop* | *reject*) ;; *) continue ;; esac
		for match in 'udp dport { 5353, 50555 }' 'tcp dport { 8100, 50555 }'; do
			rules="${rules}insert rule $family $table $chain $match accept comment \"hive\"
"
		done
	done <<EOF
$chains
EOF
	[ -n "$rules" ] || return 0
	if ! nft list ruleset | grep -q 'comment "hive"'; then
		printf '%s' "$rules" | nft -f - || fail "the firewall refuses the rules; open 50555/udp, 50555/tcp and 8100/tcp by hand"
	fi
	say "firewall: opened 50555/udp, 50555/tcp, 8100/tcp, 5353/udp (nftables)"
	keep_nftables
}

# After a reboot too, where the rules come from Debian's or Gentoo's usual place.
keep_nftables() {
	conf=/etc/nftables.conf
	if [ -f $conf ] && ! grep -q '/etc/nftables.d/hive.nft' $conf; then
		mkdir -p /etc/nftables.d
		printf '%s' "$rules" >/etc/nftables.d/hive.nft
		cp -p $conf $conf.hive-new
		printf '\ninclude "/etc/nftables.d/hive.nft"\n' >>$conf.hive-new
		if nft -c -f $conf.hive-new 2>/dev/null; then
			mv -f $conf.hive-new $conf
		else
			rm -f $conf.hive-new
			say "firewall: the rules do not fit $conf; add them there yourself, or they are gone after a reboot"
		fi
	elif [ "$init" = openrc ] && [ -f /etc/init.d/nftables ]; then
		rc-service nftables save >/dev/null 2>&1 || say "firewall: the rules could not be saved"
	fi
}

# The Python agent that came before has the names that are aliases of ours, and the same port. systemd makes no alias where there is a unit.
retire_old_units() {
	for old in build-agent build-advisor; do
		unit=/etc/systemd/system/$old.service
		if [ ! -e $unit ] && [ ! -L $unit ]; then continue; fi
		case $(readlink $unit || true) in */hive.service) continue ;; esac
		say "hive: $old.service of an earlier system is stopped and disabled; its unit is kept as $unit.before-hive"
		systemctl disable --now $old.service || say "hive: $old.service could not be stopped; end it yourself if it still runs" >&2
		if [ -e $unit ] || [ -L $unit ]; then mv -f $unit $unit.before-hive; fi
	done
}

start_units() {
	case $init in
	systemd)
		retire_old_units
		systemctl daemon-reload
		said=$(systemctl enable hive-helper.service hive.service 2>&1) || fail "systemctl enable failed: $said"
		systemctl restart hive-helper.service hive.service || {
			log_tail >&2
			fail "the service does not start; its last lines are above"
		}
		;;
	openrc)
		rc-update add hive-helper default >/dev/null
		rc-update add hive default >/dev/null
		for service in hive-helper hive; do
			rc-service $service restart || {
				log_tail >&2
				fail "$service does not start; its last lines are above"
			}
		done
		;;
	esac
}

running() {
	case $init in
	systemd) systemctl is-active --quiet hive.service ;;
	openrc) rc-service hive status >/dev/null 2>&1 ;;
	esac
}

# own FIELD: what the agent says about itself; nothing when it does not answer.
own() {
	"$prefix/bin/hive" status --json 2>/dev/null | sed -n "s/.*\"self\":{[^}]*\"$1\":\"\([A-Za-z0-9_-]*\)\".*/\1/p"
}

# Done means: the agent is a member and the hive has told it what it is. The identity of before an upgrade says neither.
is_done() { [ "$(own state)" = member ] && [ -n "$(own role)" ] && [ -s $state/identity.json ]; }

why_not() {
	case $(own state) in
	refused) say "others are here and refuse this node: most likely the secrets differ. Compare \`hive secret fingerprint\` on both sides, put the hive's into $etc/shared_secret and start hive again" ;;
	seeking | founding) say "it has found no hive: does a member run, and do 50555/udp and 50555/tcp reach it? Name one with --join HOST" ;;
	joining) say "it has found a hive that has not admitted it yet: is there a quorum? See \`hive status\` on a member" ;;
	member) say "the hive has not told it what it is yet: is there a quorum? See \`hive status\`" ;;
	stopping) say "it is stopping" ;;
	*) say "the agent does not answer" ;;
	esac
}

wait_for_identity() {
	waited=0
	until is_done; do
		if [ "$waited" -ge "$deadline" ]; then
			log_tail >&2
			running || say "hive: the service is not running" >&2
			"$prefix/bin/hive" status >&2 || true
			fail "this node is no member after $deadline s: $(why_not). \`hive doctor\` says more; the service's last lines are above"
		fi
		sleep 1
		waited=$((waited + 1))
	done
}

report() {
	say
	"$prefix/bin/hive" identity || true
	if [ "$had_secret" = no ] && [ -s $etc/shared_secret ] && [ ! -L $etc/shared_secret ]; then
		say
		say "This node made a new secret. The next machine needs it in $etc/shared_secret (mode 0600):"
		say
		say "    $(cat $etc/shared_secret)"
	fi
	say
	say "Install complete. \`hive status\` shows the hive; members of the group hive-admin may use it without sudo."
}

main() {
	parse "$@"
	find_program
	if [ $files_only = yes ]; then
		copy_files
		return
	fi
	[ -z "$destdir" ] || fail "--destdir goes with --files-only"
	[ "$(id -u)" = 0 ] || fail "this needs root: sudo sh install.sh"
	# A program for another C library or processor says so here, not in a restart loop.
	"$program" --version >/dev/null || fail "the program does not run on this machine; build it here: make build"
	# Before anything is touched: what the program will refuse later.
	set -- --config /dev/null ${name:+"--name=$name"}
	for address in $joins; do set -- "$@" "--join=$address"; done
	check_settings "$@"
	find_init
	make_users
	copy_files
	configure
	check_settings
	open_firewall
	[ $start = yes ] || return 0
	had_secret=no
	if [ -s $etc/shared_secret ]; then had_secret=yes; fi
	start_units
	wait_for_identity
	report
}

main "$@"
