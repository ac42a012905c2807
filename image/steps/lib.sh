# Shared by the build steps. Each step is a program of its own: it reads its
# inputs from the environment, writes one thing into $HOLDFAST_CACHE and can be
# started again after any failure.
#
#   HOLDFAST_CACHE   where everything that can be made again lives
#   HOLDFAST_ROOT    the top of this repository

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

# Prints the URI of a Debian archive that this machine's own apt uses, so that a
# local mirror is honoured: "debian_uri Debian" or "debian_uri Debian-Security".
debian_uri() {
	local uri
	uri=$(apt-get indextargets --format '$(REPO_URI) $(LABEL) $(ORIGIN)' 'Identifier: Packages' 2>/dev/null |
		awk -v label="$1" '$2 == label && $3 == "Debian" { print $1; exit }')
	if [ -z "$uri" ]; then
		# Before the first "apt-get update" apt does not know labels yet.
		apt-get update -qq >/dev/null 2>&1 || true
		uri=$(apt-get indextargets --format '$(REPO_URI) $(LABEL) $(ORIGIN)' 'Identifier: Packages' 2>/dev/null |
			awk -v label="$1" '$2 == label && $3 == "Debian" { print $1; exit }')
	fi
	[ -n "$uri" ] || die "this machine's apt has no archive labelled $1" \
		"add one to /etc/apt/sources.list.d and run apt-get update"
	printf '%s\n' "${uri%/}"
}

# Writes the deb822 sources of the Debian release that Holdfast is made of.
debian_sources() {
	local main security
	main=$(debian_uri Debian) security=$(debian_uri Debian-Security)
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
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
	}
}

# Runs a command inside the tools tree with its own mounts; the repository is at
# /srv/holdfast, the cache at /srv/cache.
in_tools() {
	[ -e "$tools/.complete" ] || die "the tools tree is missing" "make build"
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
		cp -L /etc/resolv.conf "$t/etc/resolv.conf" 2>/dev/null || true
		cp -L /etc/hosts "$t/etc/hosts"
		exec chroot "$t" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
			HOLDFAST_ROOT=/srv/holdfast HOLDFAST_CACHE=/srv/cache \
			${HOLDFAST_PIN:+HOLDFAST_PIN="$HOLDFAST_PIN"} ${PKCS11_PROVIDER_MODULE:+PKCS11_PROVIDER_MODULE="$PKCS11_PROVIDER_MODULE"} "$@"
	' in_tools "$tools" "$HOLDFAST_ROOT" "$HOLDFAST_CACHE" "$@"
}
