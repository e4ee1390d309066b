package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"github.com/kith-id/kith/internal/pb/brokerpb"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

// Broker is the SPIFFE Broker Endpoint: where programs that act on behalf of other
// workloads of this node fetch their SVIDs. It is on a unix socket only:
// processes mean nothing on another node, and the pods of other nodes nothing here.
type Broker struct {
	Socket string // empty: there is none
	Group  int    // whose members may connect besides our own user; negative: none
	Allow  []BrokerGrant
}

// BrokerGrant names a broker and whom it may act for, by paths in this trust
// domain; in For, * is a segment and a last ** is any number of them.
type BrokerGrant struct {
	ID  string
	For []string
}

// grants is who may broker in a trust domain.
func (b Broker) grants(td spiffe.TrustDomain) ([]workload.BrokerGrant, error) {
	var out []workload.BrokerGrant
	for _, grant := range b.Allow {
		id, err := spiffe.NewID(td, grant.ID)
		if err != nil {
			return nil, fmt.Errorf("agent.broker.allow: %w", err)
		}
		out = append(out, workload.BrokerGrant{ID: id, For: grant.For})
	}
	return out, nil
}

// listenForBrokers opens the socket, if there is to be one. Broker Endpoint 2: it
// is open to its clients and not to workloads.
func (a *Agent) listenForBrokers() (*socket, error) {
	b := a.cfg.Broker
	if b.Socket == "" {
		return nil, nil
	}
	mode := os.FileMode(0o600)
	if b.Group >= 0 {
		mode = 0o660
	}
	return listenAs(b.Socket, mode, b.Group)
}

// broker serves the endpoint until ctx ends.
func (a *Agent) broker(ctx context.Context, l *socket, service *workload.Service) error {
	if l == nil {
		return nil
	}
	grants, err := a.cfg.Broker.grants(a.standing.Load().domain())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	broker := workload.NewBroker(workload.BrokerConfig{
		Service: service, Processes: a.cfg.Processes, Objects: a.cfg.Objects, Grants: grants, Log: a.cfg.Log, Metrics: a.metrics.broker,
	})
	// Who is no broker learns so from the call: the handshake is for anybody of this
	// trust domain (Broker Endpoint 6).
	config := spiffe.ServerTLS(a, a.cfg.Now, nil)
	server := grpc.NewServer(append(broker.ServerOptions(),
		grpc.Creds(workload.BrokerCredentials(workload.LimitConnections(a.cfg.Credentials, 0, a.refusals.add), config)),
		grpc.MaxRecvMsgSize(maxBrokerRequest),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.ConnectionTimeout(5*time.Second),
	)...)
	brokerpb.RegisterAPIServer(server, broker)
	reflection.Register(server) // Broker Endpoint 7
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	a.cfg.Log.Info("brokers served", "socket", a.cfg.Broker.Socket, "brokers", len(grants))
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", a.cfg.Broker.Socket, err)
	case <-ctx.Done():
	}
	server.Stop() // streams never end by themselves
	<-served
	return nil
}

// maxBrokerRequest is more than any reference with audiences has.
const maxBrokerRequest = 64 << 10
