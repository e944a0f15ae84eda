#!/bin/sh
# Starts the aggregated server (tests/clients/aggregated) on this host, as a ServiceAccount; its process is in /tmp/wardle.pid.
set -e
[ -f /tmp/wardle.kubeconfig ] || {
	cp "$KUBECONFIG" /tmp/wardle.kubeconfig
	export KUBECONFIG=/tmp/wardle.kubeconfig
	kubectl config set-credentials wardle --token "$(kubectl create token wardle -n wardle --duration 1h)" >/dev/null
	kubectl config set-context --current --user wardle >/dev/null
}
aggregated --secure-port 8443 --cert-dir /tmp/wardle --dns-name wardle.wardle.svc \
	--authentication-kubeconfig /tmp/wardle.kubeconfig --authorization-kubeconfig /tmp/wardle.kubeconfig \
	</dev/null >>/tmp/wardle.log 2>&1 &
echo $! >/tmp/wardle.pid
