#!/bin/sh
# Installs Kedge, or upgrades it in place.
#
#   ./install.sh                          from a checkout: builds the static binary and installs it
#   curl -sfL <address of this file> | sh -   downloads a release and installs it
#   INSTALL_KEDGE_BIN=./kedge ./install.sh    installs that binary
#
# Variables:
#   INSTALL_KEDGE_BIN           a binary that is there already
#   INSTALL_KEDGE_VERSION       release to download (default: latest)
#   INSTALL_KEDGE_URL           where releases are downloaded from
#   INSTALL_KEDGE_BIN_DIR       where the binary goes (default: /usr/local/bin)
#   INSTALL_KEDGE_EXEC          verb and flags of the service (default: server, or agent when KEDGE_URL is set)
#   INSTALL_KEDGE_SKIP_START    do not start (or restart) the service
#   INSTALL_KEDGE_SKIP_ENABLE   do not enable it at boot (implies SKIP_START)
#   KEDGE_URL, KEDGE_TOKEN, KEDGE_*   are written to the service's environment file; KEDGE_URL makes this host an agent
set -eu

say() { printf '[kedge] %s\n' "$*"; }
die() { printf '[kedge] error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

HOME=${HOME:-/root} # a first-boot script has none
BIN_DIR=${INSTALL_KEDGE_BIN_DIR:-/usr/local/bin}
RELEASES=${INSTALL_KEDGE_URL:-https://github.com/kedge-sh/kedge/releases}
WAIT_SECONDS=300 # a slow flash card, with pods of before to be looked at
RUST_MINOR_MIN=95 # of Rust 1: rust-version in Cargo.toml
NEW=.kedge.new
TMP=
HERE=
case ${0##*/} in
install.sh) HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) ;;
esac

arch() {
	case $(uname -m) in
	x86_64 | amd64) echo x86_64 ;;
	aarch64 | arm64) echo aarch64 ;;
	*) die "no build for $(uname -m): x86_64 and aarch64 are served" ;;
	esac
}

from_checkout() { [ -n "$HERE" ] && [ -f "$HERE/Cargo.toml" ] && [ -d "$HERE/src/daemon" ]; }

# --- where the binary comes from -----------------------------------------------------------------------------------

# A distribution's own cargo is often too old, and without rustup it has no musl target.
rust_is_new_enough() {
	have cargo || return 1
	minor=$(cd "$HERE" && cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
	[ "${minor:-0}" -ge "$RUST_MINOR_MIN" ]
}

install_build_tools() {
	missing=
	have cc || missing="$missing gcc libc6-dev"
	have make || missing="$missing make"
	have gperf || missing="$missing gperf"
	python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3 python3-venv"
	PATH="$HOME/.cargo/bin:$PATH"
	export PATH
	have rustup || rust_is_new_enough || have curl || missing="$missing curl ca-certificates"
	if [ -n "$missing" ]; then
		have apt-get || die "to build, install these first:$missing (or set INSTALL_KEDGE_BIN to a binary)"
		say "installing build tools:$missing"
		apt-get update -qq
		# shellcheck disable=SC2086
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
	fi
	if ! have rustup && ! rust_is_new_enough; then
		if apt-cache show rustup >/dev/null 2>&1; then
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup >/dev/null
		else
			say "installing rustup"
			curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path ||
				die "rustup could not be installed: install Rust 1.$RUST_MINOR_MIN or newer, then run this again"
		fi
	fi
	if have rustup; then
		# the toolchain and its musl target are named in rust-toolchain.toml
		(cd "$HERE" && rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install 2>/dev/null || true)
		(cd "$HERE" && rustup target add "$(arch)-unknown-linux-musl" >/dev/null 2>&1) || true
	fi
	rust_is_new_enough || die "Rust 1.$RUST_MINOR_MIN or newer was not found: install it, then run this again"
}

build() {
	install_build_tools
	say "building the release binary (several minutes on a small machine)"
	(cd "$HERE" && cargo xtask dist "$(arch)") || die "the build failed; its messages are above"
	BINARY=$HERE/target/dist/kedge-$(arch)
}

download() {
	version=${INSTALL_KEDGE_VERSION:-latest}
	if [ "$version" = latest ]; then base=$RELEASES/latest/download; else base=$RELEASES/download/$version; fi
	TMP=$(mktemp -d)
	name=kedge-$(arch)
	fetch() {
		if have curl; then curl -fsSL -o "$2" "$1"; elif have wget; then wget -qO "$2" "$1"; else die "curl or wget is needed"; fi
	}
	say "downloading $base/$name"
	fetch "$base/$name" "$TMP/$name" || die "cannot download $base/$name"
	fetch "$base/$name.sha256" "$TMP/$name.sha256" || die "cannot download the checksum $base/$name.sha256"
	want=$(cut -d' ' -f1 <"$TMP/$name.sha256")
	got=$(sha256sum "$TMP/$name" | cut -d' ' -f1)
	[ "$want" = "$got" ] || die "the download is damaged: sha256 is $got, $want was announced"
	BINARY=$TMP/$name
}

# --- the service ----------------------------------------------------------------------------------------------------

service_system() {
	if [ -d /run/systemd/system ] && have systemctl; then
		echo systemd
	elif have openrc-run || [ -x /sbin/openrc-run ]; then
		echo openrc
	else
		echo none
	fi
}

# KEDGE_* of this shell, for the service; the file may hold a token, so it is root's alone.
write_environment() {
	mkdir -p /etc/kedge
	umask 077
	# KEDGE_URL is the installer's word for --server
	env | sed -n 's/^KEDGE_URL=/KEDGE_SERVER=/p; /^KEDGE_URL=/d; /^KEDGE_[A-Z0-9_]*=/p' | sort -u >"/etc/kedge/$SERVICE.env.new"
	if [ -s "/etc/kedge/$SERVICE.env.new" ] || [ ! -e "/etc/kedge/$SERVICE.env" ]; then
		mv "/etc/kedge/$SERVICE.env.new" "/etc/kedge/$SERVICE.env"
	else
		rm "/etc/kedge/$SERVICE.env.new" # an upgrade without variables keeps those of the installation
	fi
	umask 022
}

# The binary carries the files of systemd/, so that a piped install needs no checkout.
unit() { "$BIN_DIR/${2:-kedge}" unit "$1" --bin "$BIN_DIR/kedge" --service "$SERVICE" --exec "$EXEC"; }

PIDFILE=${KEDGE_RUN_DIR:-/run/kedge}/kedge.pid # the daemon writes it

# With neither systemd nor OpenRC: in the background, with its log in /var/log/kedge.log.
start_in_background() {
	if [ -f "$PIDFILE" ] && kill -0 "$(cat "$PIDFILE")" 2>/dev/null; then
		say "stopping the running daemon (pods go on)"
		pid=$(cat "$PIDFILE")
		kill "$pid"
		n=0
		while kill -0 "$pid" 2>/dev/null; do
			n=$((n + 1))
			[ $n -gt 300 ] && die "the running daemon (pid $pid) does not stop"
			sleep 0.1
		done
	fi
	mkdir -p /var/log
	(
		set -a
		# shellcheck disable=SC1090
		[ -f "/etc/kedge/$SERVICE.env" ] && . "/etc/kedge/$SERVICE.env"
		set +a
		# shellcheck disable=SC2086
		exec setsid "$BIN_DIR/kedge" $EXEC >>/var/log/kedge.log 2>&1 </dev/null
	) &
	DAEMON=$!
}

install_service() {
	case $SYSTEM in
	systemd)
		unit systemd >"/etc/systemd/system/$SERVICE.service"
		systemctl daemon-reload
		[ -n "${INSTALL_KEDGE_SKIP_ENABLE:-}" ] || systemctl -q enable "$SERVICE"
		;;
	openrc)
		unit openrc >"/etc/init.d/$SERVICE"
		chmod 755 "/etc/init.d/$SERVICE"
		[ -n "${INSTALL_KEDGE_SKIP_ENABLE:-}" ] || rc-update -q add "$SERVICE" default
		;;
	esac
}

# Starts the daemon, or starts it again, and waits until the node is Ready. Fails when it does not come up.
start_service() {
	deadline=$(($(date +%s) + WAIT_SECONDS))
	case $SYSTEM in
	systemd)
		say "starting $SERVICE.service"
		# Type=notify: returns when the API serves and the node is Ready
		timeout "$WAIT_SECONDS" systemctl restart "$SERVICE" || return 1
		;;
	openrc)
		say "starting $SERVICE"
		rc-service "$SERVICE" restart || return 1
		;;
	none)
		say "no systemd or OpenRC here: starting kedge in the background"
		start_in_background
		;;
	esac
	[ "$VERB" = server ] || return 0
	say "waiting until the node is Ready"
	# where no service system waits for it, the first answers may take a moment
	until "$BIN_DIR/kedge" wait --for=condition=Ready node --all --timeout=10s >/dev/null 2>&1; do
		if [ "$SYSTEM" = none ] && ! kill -0 "$DAEMON" 2>/dev/null; then
			tail -n 5 /var/log/kedge.log >&2
			return 1
		fi
		[ "$(date +%s)" -lt "$deadline" ] || return 1
		sleep 1
	done
}

# A new binary that does not come up must not cost the node: the one before it takes its place again.
go_back() {
	say "the new binary does not come up ($(log_hint)): going back to the previous one"
	mv "$BIN_DIR/kedge.previous" "$BIN_DIR/kedge"
	install_service
	start_service || die "neither the new binary nor the previous one comes up: $(log_hint)"
	die "the upgrade failed, the previous binary runs again: $(log_hint)"
}

log_hint() {
	case $SYSTEM in
	systemd) echo "journalctl -u $SERVICE shows why" ;;
	*) echo "see /var/log/kedge.log" ;;
	esac
}

main() {
	[ "$(id -u)" = 0 ] || die "run this as root (sudo)"
	[ "$(uname -s)" = Linux ] || die "Kedge runs on Linux"
	if [ -n "${KEDGE_URL:-}" ]; then VERB=agent SERVICE=kedge-agent; else VERB=server SERVICE=kedge; fi
	EXEC=${INSTALL_KEDGE_EXEC:-$VERB}
	UPGRADED=
	SYSTEM=$(service_system)
	trap 'rm -rf "${TMP:-$BIN_DIR/$NEW}" "$BIN_DIR/$NEW"' EXIT

	if [ -n "${INSTALL_KEDGE_BIN:-}" ]; then
		BINARY=$INSTALL_KEDGE_BIN
		[ -f "$BINARY" ] || die "INSTALL_KEDGE_BIN: $BINARY is not there"
	elif from_checkout; then
		build
	else
		download
	fi
	# Beside its place before anything else: where it came from may forbid running (a /tmp with noexec).
	mkdir -p "$BIN_DIR"
	cp "$BINARY" "$BIN_DIR/$NEW"
	chmod 755 "$BIN_DIR/$NEW"
	"$BIN_DIR/$NEW" version >/dev/null 2>&1 || die "$BINARY does not run on this machine"
	# it knows which verbs it serves, and says so
	unit systemd "$NEW" >/dev/null || die "nothing was installed"
	if [ -x "$BIN_DIR/kedge" ] && ! cmp -s "$BIN_DIR/$NEW" "$BIN_DIR/kedge"; then
		cp -p "$BIN_DIR/kedge" "$BIN_DIR/kedge.previous"
		UPGRADED=1
		say "upgrading; the previous binary is kept as $BIN_DIR/kedge.previous"
	fi
	mv "$BIN_DIR/$NEW" "$BIN_DIR/kedge" # a rename, so that running shims keep their own file
	write_environment
	# for `kedge reset`
	grep -qs "^SERVICE=$SERVICE\$" /etc/kedge/installed || echo "SERVICE=$SERVICE" >>/etc/kedge/installed
	grep -qs "^BIN=$BIN_DIR/kedge\$" /etc/kedge/installed || echo "BIN=$BIN_DIR/kedge" >>/etc/kedge/installed
	install_service
	if [ -n "${INSTALL_KEDGE_SKIP_ENABLE:-}${INSTALL_KEDGE_SKIP_START:-}" ]; then
		say "Kedge is installed; it was not started"
	elif start_service; then
		say "Kedge is running"
	elif [ -n "$UPGRADED" ]; then
		go_back
	else
		die "it did not start: $(log_hint)"
	fi
	if [ "$VERB" = server ]; then
		say "next:  export KUBECONFIG=/etc/kedge/kedge.yaml; kubectl get nodes     (or: kedge get nodes)"
	fi
	case $SYSTEM in
	systemd) say "stop:  systemctl stop $SERVICE     remove everything: kedge reset" ;;
	openrc) say "stop:  rc-service $SERVICE stop     remove everything: kedge reset" ;;
	none) say "stop:  kill \$(cat $PIDFILE)     remove everything: kedge reset" ;;
	esac
}

main
