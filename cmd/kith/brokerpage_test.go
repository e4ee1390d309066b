package main

import (
	"os/user"
	"strings"
	"testing"
)

// brokerHost is a server and its node, where mesh may act for /vms/orders.
const brokerHost = `port API
exec sed -i -e s/PORT/$API/ -e 's/^agent:$/&\n  metrics: ""/' kith.yaml
cp kith.yaml $KITH_CONFIG
exec kith server &server&
eventually kith status
capture LINE kith nodes add vm-7 --class vms
exec kith join $LINE
exec kith agent &agent&
env SPIFFE_BROKER_SOCKET=unix://$KITH_RUN_DIR/broker/broker.sock
eventually test -S $KITH_RUN_DIR/broker/broker.sock
exec sed -i s/ME/$BROKER_USER/ services.yaml
exec kith apply -f services.yaml
`

const brokerFiles = `-- services.yaml --
services:
  mesh: {identities: [/vms/mesh], protocol: http, run_as: [ME]}
  orders: {identities: [/vms/orders], protocol: http, run_as: [ME]}
  vault: {identities: [/vms/vault], protocol: http, run_as: [ME]}
-- kith.yaml --
trust_domain: acme.example
server: {listen: "127.0.0.1:PORT", metrics: ""}
`

// docs/broker.md: its state applies, its kith.yaml is one, under which its commands
// work, and what they leave ends with the process. Rule 101: kith get is a client.
func TestBrokerPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "broker.md")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	env["BROKER_USER"] = me.Username
	commands, files, _ := strings.Cut(script, "-- ")
	runPage(t, brokerHost, commands+brokerEnd+"-- "+files+brokerFiles+brokerAllows(t), env)
}

// brokerAllows is the kith.yaml of the page.
func brokerAllows(t *testing.T) string {
	t.Helper()
	text := pageText(t, "broker.md")
	_, after, found := strings.Cut(text, "\n```\nfeatures: {broker: true}\n")
	block, _, closed := strings.Cut(after, "\n```\n")
	if !found || !closed {
		t.Fatal("the page has no kith.yaml")
	}
	return "features: {broker: true}\n" + block + "\n"
}

// brokerEnd is what the page says of files, and of mistakes.
const brokerEnd = `
exec cp orders.pid was.pid
exec sh -c 'kith get svid --as mesh --pid $(cat was.pid) --dir left'
exec test -s left/key.pem
exec sh -c 'kill $(cat was.pid)'
eventually sh -c 'test -z "$(ls -A orders-tls)"'
# what a watch has left that was not there when the process ended goes with the next
! exec sh -c 'kith get svid --as mesh --pid $(cat was.pid) --dir left'
exec test -s left/key.pem
! exec sh -c 'kith get svid --as mesh --pid $(cat was.pid) --dir left --watch'
stderr '^hint: ps -p [0-9]+$'
exec sh -c 'test -z "$(ls -A left)"'
! exec sh -c 'kith get svid --as mesh --pid $(cat was.pid)'
stderr '^error: fetch X509-SVIDs of process [0-9]+: '
stderr '^hint: ps -p [0-9]+$'
! exec sh -c 'kith get svid --as mesh --pid $$'
stderr '^error: fetch X509-SVIDs of process [0-9]+: '
stderr '^hint: kith ids explain --pid [0-9]+, and agent.broker.allow says for whom one may ask$'
! exec sh -c 'kith get svid --as vault --pid $$'
stderr '^error: fetch X509-SVIDs of process [0-9]+: spiffe://acme.example/vms/vault is not a broker'
stderr '^hint: agent.broker.allow in kith.yaml of the node says who may, and for whom: docs/broker.md$'
! exec kith get svid --as mesh --pid 1 --expect spiffe://acme.example/kith/node/vm-8
stderr '^error: fetch X509-SVIDs of process 1: the endpoint is spiffe://acme.example/kith/node/vm-7, and spiffe://acme.example/kith/node/vm-8 is expected$'
stderr '^hint: --expect names whose endpoint it is; kith nodes has the names of nodes$'
! exec kith get jwt --as mesh --object pods.core/shop/web --audience a
stderr '^error: fetch JWT-SVIDs of pods.core shop/web: this agent knows no kubelet'
! exec kith get svid --as mesh --object pods.core/web
stderr '^error: --object "pods.core/web": pods.core are in namespaces, and the key has none$'
! exec kith get bundle --as mesh --pid 1 --uid x
stderr '^error: --uid is of an object: --object is missing$'
! exec kith get svid --as mesh --pid 0
stderr '^error: process id 0 is not from 1 to 2147483647$'
! exec kith get svid --as mesh --pid 1 --broker broker.sock
stderr '^error: broker endpoint: "broker.sock" is of scheme "", and unix or tcp is wanted$'
stderr '^hint: write unix:///run/kith/broker/broker.sock, or tcp://host:port$'
! exec kith get svid --as mesh --pid 1 --broker tcp://127.0.0.1
stderr '^error: broker endpoint: "tcp://127.0.0.1" has no port$'
! exec kith get svid --as mesh --pid 1 --broker tcp://127.0.0.1:9
stderr '^error: tcp://127.0.0.1:9: over TCP the ID of the endpoint must be said$'
! exec kith get svid --as mesh --pid 1 --broker tcp://10.0.0.7:9 --expect spiffe://acme.example/kith/node/vm-8
stderr '^error: tcp://10.0.0.7:9: process ids mean something on this node only'
! exec kith get svid --as mesh --broker unix:///x
stderr '^error: --broker is asked about somebody: --pid is missing$'
! exec kith get bundle --as mesh --pid 1 --object nodes.core/a
stderr '^error: --pid and --object are two workloads; one is wanted$'
! exec kith get jwt --as mesh --pid 1 --audience a --validate
stderr '^error: --validate asks the own agent, about a token and not about a process$'
env SPIFFE_BROKER_SOCKET=
! exec kith get bundle --as mesh --pid 1
stderr '^error: no broker endpoint: SPIFFE_BROKER_SOCKET is not set$'
`
