package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb/envoypb"
)

// wholeSession is the state of a stream that gets all its secrets each time.
type wholeSession struct {
	s       *Service
	asked   bool
	plain   bool
	all     bool // the first request named nothing: whatever there is
	names   []string
	had     map[string]bool // names that were sent, or may have been before this stream
	nonce   string          // of the last response
	version string          // of the last response; "" makes the next one be sent
}

func (w *wholeSession) old() bool { return w.plain }

// hear takes the first request, a change of names, or the answer to a response.
// An answer that is not about the last response is stale: what it says is said
// again in the answer to the last one.
func (w *wholeSession) hear(req *envoypb.DiscoveryRequest) error {
	if err := checkType(req.GetTypeUrl()); err != nil {
		return err
	}
	if err := checkNames(req.GetResourceNames()); err != nil {
		return err
	}
	if w.nonce != "" && req.GetResponseNonce() != w.nonce {
		return nil
	}
	w.s.answered(req.GetResponseNonce(), req.GetErrorDetail())
	names := sorted(req.GetResourceNames())
	if !w.asked { // Envoy says who it is in the first request only
		w.plain, w.all, w.had = !digests(req.GetNode()), len(names) == 0, make(map[string]bool)
		for _, name := range names {
			w.had[name] = req.GetVersionInfo() != "" // of the stream before this one
		}
	}
	if !slices.Equal(names, w.names) {
		w.names, w.version, w.all = names, "", false
	}
	w.asked = true
	return nil
}

func (w *wholeSession) next(all secrets) (*envoypb.DiscoveryResponse, error) {
	if !w.asked {
		return nil, nil
	}
	names := w.names
	if w.all {
		names = all.all()
	}
	out := &envoypb.DiscoveryResponse{TypeUrl: secretType}
	sum := sha256.New()
	var unknown []string
	for _, name := range names {
		made, known, err := all.find(name, w.had[name])
		switch {
		case err != nil:
			return nil, err
		case !known && w.had[name]:
			return nil, status.Errorf(codes.PermissionDenied, "secret %q is no longer this process's", clip(name))
		case !known:
			unknown = append(unknown, name)
		case made != nil:
			out.Resources = append(out.Resources, made.body)
			sum.Write([]byte(made.name + "\x00" + made.version + "\x00"))
			w.had[name] = true
		}
	}
	if len(unknown) > 0 {
		return nil, w.s.unknown(unknown, all)
	}
	version := hex.EncodeToString(sum.Sum(nil)[:8])
	if len(out.Resources) == 0 || version == w.version {
		return nil, nil
	}
	w.version, w.nonce = version, newNonce()
	out.VersionInfo, out.Nonce = w.version, w.nonce
	return out, nil
}

// everything is the name that stands for all names in a delta subscription.
const everything = "*"

// deltaSession is the state of a stream that gets each secret when it changes.
type deltaSession struct {
	s      *Service
	asked  bool
	plain  bool
	all    bool // also what was not named
	wanted map[string]*wantedSecret
}

// wantedSecret is one name of a delta subscription.
type wantedSecret struct {
	named   bool   // asked for by this name, not as a part of everything
	had     bool   // the asker has, or had, something under this name
	version string // as sent; "" makes it be sent
	gone    bool   // the asker knows that there is none
}

func (d *deltaSession) old() bool { return d.plain }

func (d *deltaSession) hear(req *envoypb.DeltaDiscoveryRequest) error {
	if err := checkType(req.GetTypeUrl()); err != nil {
		return err
	}
	d.s.answered(req.GetResponseNonce(), req.GetErrorDetail())
	subscribe := req.GetResourceNamesSubscribe()
	if !d.asked {
		d.plain = !digests(req.GetNode())
		d.all = len(subscribe) == 0
		// What it has of a stream before this one is sent again all the same: it is
		// little. It matters where there is nothing under that name any more.
		for name := range req.GetInitialResourceVersions() {
			d.wanted[name] = &wantedSecret{had: true}
		}
	}
	d.asked = true
	for _, name := range sorted(subscribe) {
		if name == everything {
			d.all = true
			continue
		}
		if _, ok := d.wanted[name]; !ok {
			d.wanted[name] = &wantedSecret{}
		}
		w := d.wanted[name]
		w.named, w.version, w.gone = true, "", false // whoever subscribes is answered
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		if name == everything {
			d.all = false
		} else if w := d.wanted[name]; w != nil {
			w.named = false
		}
	}
	maps.DeleteFunc(d.wanted, func(_ string, w *wantedSecret) bool { return !w.named && !d.all })
	if len(d.wanted) > maxNames {
		return checkNames(slices.Collect(maps.Keys(d.wanted)))
	}
	return nil
}

func (d *deltaSession) next(all secrets) (*envoypb.DeltaDiscoveryResponse, error) {
	if !d.asked {
		return nil, nil
	}
	if d.all {
		for _, name := range all.all() {
			if d.wanted[name] == nil {
				d.wanted[name] = &wantedSecret{}
			}
		}
	}
	out := &envoypb.DeltaDiscoveryResponse{TypeUrl: secretType}
	for _, name := range slices.Sorted(maps.Keys(d.wanted)) {
		w := d.wanted[name]
		made, known, err := all.find(name, w.had)
		switch {
		case err != nil:
			return nil, err
		case !known && !w.gone:
			out.RemovedResources = append(out.RemovedResources, name)
			w.gone, w.version = true, ""
		case made != nil && made.version != w.version:
			out.Resources = append(out.Resources, &envoypb.Resource{Name: name, Version: made.version, Resource: made.body})
			w.version, w.had, w.gone = made.version, true, false
		}
	}
	if len(out.Resources)+len(out.RemovedResources) == 0 {
		return nil, nil
	}
	out.Nonce = newNonce()
	out.SystemVersionInfo = out.Nonce
	return out, nil
}
