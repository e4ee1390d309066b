package kith

import (
	"time"

	"github.com/kith-id/kith/spiffe"
)

// Proven is a peer that a WIT-SVID has just proven.
func Proven(w *Workload, token string, now time.Time) (*Peer, error) {
	bundles := w.wits.bundles.value.Load()
	svid, err := spiffe.ValidateWIT(token, spiffe.WITCheck{Bundle: w.WITBundle, Now: now})
	if err != nil {
		return nil, err
	}
	return &Peer{id: svid.ID, leaf: expiring{svid.Expiry}, proven: provenBy(token, now, bundles)}, nil
}

// SetWITBundles is what the agent's stream does.
func SetWITBundles(w *Workload, bundles spiffe.BundleMap) { w.wits.bundles.set(&bundles, nil) }
