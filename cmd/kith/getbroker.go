package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// brokerPatience is how long an endpoint that is starting is waited for.
const brokerPatience = 5 * time.Second

const brokerHelp = `

With --pid it is fetched on behalf of another process of this node, from a SPIFFE
Broker Endpoint (--broker, or SPIFFE_BROKER_SOCKET), as the one that this process
is, or with --as claims to be. It must be listed there: docs/broker.md.`

// identitySource is whose identity a verb is about: our own, or that of a workload
// that we act for.
type identitySource interface {
	spiffe.Source
	ID() spiffe.ID
	Renewed() <-chan struct{}
}

// brokerFlags say on whose behalf something is fetched, and where.
type brokerFlags struct {
	endpoint, expect string
	object, uid      string
	pid              int64
}

func (f *brokerFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.endpoint, "broker", "", "the SPIFFE Broker Endpoint: unix:///PATH or tcp://HOST:PORT (SPIFFE_BROKER_SOCKET)")
	flags.Int64Var(&f.pid, "pid", 0, "fetch on behalf of this process, from the broker endpoint")
	flags.StringVar(&f.object, "object", "", "fetch on behalf of an object of Kubernetes, where a broker endpoint knows them: pods.core/NAMESPACE/NAME")
	flags.StringVar(&f.uid, "uid", "", "with --object: the UID it must have; PLURAL.GROUP is enough then")
	flags.StringVar(&f.expect, "expect", "", "the SPIFFE ID that the broker endpoint must prove (default: this node's agent)")
}

// asked says whether somebody else's identity is wanted, and refuses flags that mean
// nothing without.
func (f *brokerFlags) asked(cmd *cobra.Command) (bool, error) {
	named := cmd.Flags().Changed("pid")
	switch {
	case named && f.object != "":
		return false, usagef(cmd, "--pid and --object are two workloads; one is wanted")
	case named && f.uid != "":
		return false, usagef(cmd, "--uid is of an object: --object is missing")
	case named || f.object != "":
		return true, nil
	case f.endpoint != "" || f.expect != "" || f.uid != "":
		return false, usagef(cmd, "--broker is asked about somebody: --pid is missing")
	}
	return false, nil
}

// reference is who is meant.
func (f *brokerFlags) reference() (spiffe.Reference, error) {
	if f.object == "" {
		ref, err := spiffe.ProcessReference(f.pid)
		return ref, fault.Hint(fault.Wrap(fault.Invalid, err), "--pid takes the number of a process, as ps shows it")
	}
	o, err := parseObject(f.object, f.uid)
	if err != nil {
		return spiffe.Reference{}, err
	}
	return spiffe.ObjectReference(o)
}

// parseObject reads PLURAL.GROUP/NAMESPACE/NAME with a UID that may be left out; where
// one is given the rest behind the group may be.
func parseObject(text, uid string) (spiffe.KubernetesObject, error) {
	parts := strings.Split(text, "/")
	plural, group, _ := strings.Cut(parts[0], ".")
	o := spiffe.KubernetesObject{Plural: plural, Group: group, UID: uid}
	var err error
	switch len(parts) {
	case 1:
	case 2:
		o.Name = parts[1]
	case 3:
		o.Namespace, o.Name = parts[1], parts[2]
		if o.Namespace == "" {
			err = errors.New("the namespace is empty")
		}
	default:
		err = fmt.Errorf("it has %d parts", len(parts))
	}
	if len(parts) > 1 && o.Name == "" {
		err = errors.New("the name is empty")
	}
	if err == nil {
		_, err = spiffe.ObjectReference(o)
	}
	if err != nil {
		return o, fault.Hint(fault.Invalidf("--object %q: %w", text, err), "pods.core/shop/web-1, nodes.core/vm-7, or deployments.apps with --uid")
	}
	return o, nil
}

// open makes the client of the endpoint.
func (f *brokerFlags) open(w *kith.Workload) (*kith.Broker, spiffe.Reference, error) {
	ref, err := f.reference()
	if err != nil {
		return nil, ref, err
	}
	cfg := kith.BrokerConfig{Endpoint: f.endpoint, Wait: brokerPatience}
	if f.expect != "" {
		if cfg.Expect, err = spiffe.ParseID(f.expect); err != nil {
			return nil, ref, fault.Hint(fault.Invalidf("--expect: %w", err), "as in spiffe://acme.example/kith/node/vm-7")
		}
	}
	b, err := w.Broker(cfg)
	return b, ref, err
}

// source is our own identity, or the one that the flags are about, until release
// is called or ctx ends.
func (f *brokerFlags) source(ctx context.Context, cmd *cobra.Command, w *kith.Workload) (source identitySource, release func(), err error) {
	asked, err := f.asked(cmd)
	if err != nil || !asked {
		return w, func() {}, err
	}
	b, ref, err := f.open(w)
	if err != nil {
		return nil, nil, err
	}
	followed, err := b.Follow(ctx, ref)
	if err != nil {
		err = errors.Join(err, b.Close())
		if fault.Is(err, fault.NotFound) {
			err = goneError{err}
		}
		return nil, nil, err
	}
	return followed, func() {
		followed.Close()
		b.Close()
	}, nil
}

// goneError says that there is no such workload.
type goneError struct{ error }

// Unwrap is why.
func (e goneError) Unwrap() error { return e.error }

// jwt is the default JWT-SVID of the workload that the flags are about.
func (f *brokerFlags) jwt(ctx context.Context, w *kith.Workload, audience []string) (*spiffe.JWTSVID, error) {
	b, ref, err := f.open(w)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	svids, err := b.JWTSVIDs(ctx, ref, spiffe.ID{}, audience...)
	if err != nil {
		return nil, err
	}
	return svids[0], nil // Broker API 5.3: the default one
}

// roots is the bundle of the trust domain that the endpoint is in, for the workload
// that the flags are about.
func (f *brokerFlags) roots(ctx context.Context, w *kith.Workload) (*spiffe.Bundle, error) {
	b, ref, err := f.open(w)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	bundles, err := b.X509Bundles(ctx, ref)
	if err != nil {
		return nil, err
	}
	return bundles[b.Expects().TrustDomain()], nil
}
