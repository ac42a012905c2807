# Shared by the build steps. Each step is a program of its own: it reads its
# inputs from the environment, writes one thing into $HOLDFAST_CACHE and can be
# started again after any failure.
#
#   HOLDFAST_CACHE   where everything that can be made again lives
#   HOLDFAST_ROOT    the top of this repository
#
# A key in a token is reached by openssl's provider inside the tools tree:
#
#   PKCS11_PROVIDER_MODULE   the token's library, a path in the tools tree; default OpenSC's
#   HOLDFAST_TOKEN           a folder with what that library needs besides: /run/token in the
#                            tree. Its file "environment", if any, holds NAME=value lines.
#   HOLDFAST_PIN             the token's PIN: the file /run/pin in the tree

set -euo pipefail
export LC_ALL=C.UTF-8
umask 022

: "${HOLDFAST_ROOT:=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}"
: "${HOLDFAST_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast}"
export HOLDFAST_ROOT HOLDFAST_CACHE

tools="$HOLDFAST_CACHE/tools"

die() { # message, way on
	printf 'error: %s\n' "$1" >&2
	[ $# -lt 2 ] || printf 'try:   %s\n' "$2" >&2
	exit 1
}

# Lets one step at a time work in the cache; called before anything is written there.
# The lock is held by all that the step starts. Who started it is written into the
# lock: when that process was killed, what it left running is ended here, since it
# would write into the same folders.
alone() {
	local lock="$HOLDFAST_CACHE/lock" builder holder
	command -v flock >/dev/null || return 0
	exec 9>>"$lock"
	if ! flock -n 9; then
		builder=$(head -n 1 "$lock")
		if [ "$builder" != "$PPID" ] && [ ! -e "/proc/$builder" ]; then
			for holder in $(lock_holders "$lock"); do kill -KILL "$holder" 2>/dev/null || true; done
		fi
		# What an earlier step of this same build left behind does not stop it.
		[ "$builder" = "$PPID" ] || flock -w 30 9 ||
			die "another build (process $builder) is at work in $HOLDFAST_CACHE" \
				"wait until it has ended, then run the same command again"
	fi
	printf '%s\n' "$PPID" >"$lock"
}

# Prints the processes, other than this one, that have the file of the lock open.
lock_holders() { # lock
	local fd pid
	for fd in /proc/[0-9]*/fd/9; do
		pid=${fd#/proc/} pid=${pid%%/*}
		[ "$pid" = "$$" ] || [ "$pid" = "$BASHPID" ] || ! [ "$fd" -ef "$1" ] || printf '%s\n' "$pid"
	done
}

# How long apt tries: a mirror that is gone shall be told within a minute.
apt_limits=(-o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10)

# Tells whether a mirror answers, even if only that it does not have the file; asks
# the way apt does, proxy included.
mirror_probe() { # URI, suite
	local page said=""
	page=$(mktemp -d)
	said=$(timeout 20 /usr/lib/apt/apt-helper "${apt_limits[@]}" download-file "$1/dists/$2/InRelease" "$page/file" 2>&1) ||
		said="failed: $said"
	rm -rf "$page"
	case "$said" in
	"failed: "*" 404 "*) ;;
	"failed: "*)
		printf '%s\n' "$said" >&2
		return 1
		;;
	esac
}

mirror_gone() { # URI
	die "the Debian mirror $1 does not answer" \
		"check the network and /etc/apt/sources.list.d, then run the same command again"
}

# Ends the step when a mirror that Holdfast is made from does not answer.
debian_answers() {
	local main security
	main=$(debian_uri Debian) || exit 1
	security=$(debian_uri Debian-Security) || exit 1
	mirror_probe "$main" trixie || mirror_gone "$main"
	mirror_probe "$security" trixie-security || mirror_gone "$security"
}

# Ends the step when none of the mirrors of this machine's apt answers ("any"), or
# one of them does not ("all").
apt_answers() { # any or all
	local uri suite gone=""
	while read -r uri suite; do
		if mirror_probe "${uri%/}" "$suite"; then
			[ "$1" = all ] || return 0
		else
			gone=${uri%/}
			[ "$1" = any ] || break
		fi
	done < <(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' 2>/dev/null | awk '!seen[$1]++')
	[ -z "$gone" ] || mirror_gone "$gone"
}

# Ends a step whose downloads failed, with the reason as far as it can be seen now.
download_failed() { # what was being done, folder that was written to
	local free
	free=$(free_mib "$2")
	[ "$free" -ge 64 ] || die "$1: $2 has only $free MiB left" "free some space there, then run the same command again"
	debian_answers
	die "$1 failed; what the programs said is above" "run the same command again: it begins this step anew"
}

free_mib() { # folder
	echo $(($(stat -f --format='%a*%S' "$1") / 1048576))
}

# Prints the URI of a Debian archive that this machine's own apt uses, so that a
# local mirror is honoured: "debian_uri Debian" or "debian_uri Debian-Security".
debian_uri() {
	local uri
	uri=$(labelled "$1")
	if [ -z "$uri" ]; then
		# Before the first "apt-get update" apt does not know labels yet.
		apt_answers any
		apt-get "${apt_limits[@]}" update -qq >/dev/null 2>&1 || true
		uri=$(labelled "$1")
	fi
	[ -n "$uri" ] || apt_answers all
	[ -n "$uri" ] || die "this machine's apt has no archive labelled $1" \
		"add one to /etc/apt/sources.list.d and run apt-get update"
	printf '%s\n' "${uri%/}"
}

labelled() { # label
	apt-get indextargets --format '$(REPO_URI) $(LABEL) $(ORIGIN)' 'Identifier: Packages' 2>/dev/null |
		awk -v label="$1" '$2 == label && $3 == "Debian" { print $1; exit }'
}

# Writes the deb822 sources of the Debian release that Holdfast is made of.
debian_sources() {
	local main security
	main=$(debian_uri Debian) || exit 1
	security=$(debian_uri Debian-Security) || exit 1
	cat <<-SOURCES
		Types: deb
		URIs: $main
		Suites: trixie trixie-updates trixie-backports
		Components: main contrib non-free-firmware
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

		Types: deb
		URIs: $security
		Suites: trixie-security
		Components: main contrib non-free-firmware
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	SOURCES
}

# Installs programs of this machine that are needed before the tools tree is there.
need_host() { # program=package ...
	local pair missing=()
	for pair in "$@"; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -eq 0 ] || {
		apt-get "${apt_limits[@]}" update -qq
		DEBIAN_FRONTEND=noninteractive apt-get "${apt_limits[@]}" install -y -qq --no-install-recommends "${missing[@]}" || {
			apt_answers all
			die "this machine has no ${missing[*]}, and apt cannot install it" \
				"apt-get install ${missing[*]}, then run the same command again"
		}
	}
}

# Takes the PIN out of a pkcs11: URI, since arguments of programs can be read by others
# and end in logs: sets HOLDFAST_PIN, and token_key to the URI for use in the tools tree.
take_pin() { # URI
	local path=${1%%\?*} part parts rest=
	IFS='&' read -ra parts <<<"${1:${#path}+1}"
	for part in "${parts[@]}"; do
		case "$part" in
		pin-value=*) HOLDFAST_PIN=$(percent_decode "${part#*=}") ;;
		pin-source=*)
			part=$(percent_decode "${part#*=}")
			part=${part#file:}
			[ -r "$part" ] || die "reading the PIN of the token: there is no file $part" \
				"?pin-source=file:/... in HOLDFAST_SECUREBOOT_KEY"
			HOLDFAST_PIN=$(<"$part")
			;;
		?*) rest+="&$part" ;;
		esac
	done
	export HOLDFAST_PIN
	[ -z "${HOLDFAST_PIN:-}" ] || rest="&pin-source=file:/run/pin$rest"
	token_key="$path${rest:+?${rest#&}}"
}

percent_decode() { printf '%b' "${1//%/\\x}"; }

# Prints the variables that lead programs to the token, one NAME=value a line.
token_environment() {
	printf 'PKCS11_PROVIDER_MODULE=%s\n' "${PKCS11_PROVIDER_MODULE:-/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so}"
	[ ! -e "${HOLDFAST_TOKEN:-/run/token}/environment" ] ||
		grep -E '^[A-Za-z_][A-Za-z0-9_]*=' "${HOLDFAST_TOKEN:-/run/token}/environment" || true
}

# Runs a command inside the tools tree with its own mounts; the repository is at
# /srv/holdfast, the cache at /srv/cache.
in_tools() {
	[ -e "$tools/.complete" ] || die "the tools tree is missing" "make build"
	local environment
	mapfile -t environment < <(token_environment)
	unshare --mount --propagation private bash -c '
		set -e
		t=$1 root=$2 cache=$3; shift 3
		mount --bind "$t" "$t"   # mkosi wants "/" to be a mount point
		mount --rbind /dev "$t/dev"
		mount -t proc proc "$t/proc"
		mount --rbind /sys "$t/sys"
		mount -t tmpfs -o size=75% tmpfs "$t/var/tmp"
		mount -t tmpfs tmpfs "$t/run"
		mkdir -p "$t/run/lock" "$t/srv/holdfast" "$t/srv/cache"
		mount --bind "$root" "$t/srv/holdfast"
		mount --bind "$cache" "$t/srv/cache"
		[ -z "${HOLDFAST_TOKEN:-}" ] || { mkdir "$t/run/token"; mount --bind "$HOLDFAST_TOKEN" "$t/run/token"; }
		[ ! -d /run/pcscd ] || { mkdir "$t/run/pcscd"; mount --bind /run/pcscd "$t/run/pcscd"; }
		[ -z "${HOLDFAST_PIN:-}" ] || (umask 077; printf %s "$HOLDFAST_PIN" >"$t/run/pin")
		cp -L /etc/resolv.conf "$t/etc/resolv.conf" 2>/dev/null || true
		cp -L /etc/hosts "$t/etc/hosts"
		exec chroot "$t" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
			HOLDFAST_ROOT=/srv/holdfast HOLDFAST_CACHE=/srv/cache "$@"
	' in_tools "$tools" "$HOLDFAST_ROOT" "$HOLDFAST_CACHE" "${environment[@]}" "$@"
}
