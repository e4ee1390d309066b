package workload

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
)

// everyRPC is the seven of the Workload API with a good request, each until its first
// answer.
func everyRPC(ctx context.Context, e *endpoint) map[string]error {
	first := func(err error, recv func() error) error {
		if err != nil {
			return err
		}
		return recv()
	}
	api := e.api()
	svids, err1 := api.FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	bundles, err2 := api.FetchX509Bundles(ctx, &workloadpb.X509BundlesRequest{})
	_, err3 := api.FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"billing"}})
	keys, err4 := api.FetchJWTBundles(ctx, &workloadpb.JWTBundlesRequest{})
	_, err5 := api.ValidateJWTSVID(ctx, &workloadpb.ValidateJWTSVIDRequest{Audience: "billing", Svid: "a.b.c"})
	wits, err6 := api.FetchWITSVID(ctx, &workloadpb.WITSVIDRequest{})
	witKeys, err7 := api.FetchWITBundles(ctx, &workloadpb.WITBundlesRequest{})
	return map[string]error{
		"FetchX509SVID":    first(err1, func() error { _, err := svids.Recv(); return err }),
		"FetchX509Bundles": first(err2, func() error { _, err := bundles.Recv(); return err }),
		"FetchJWTSVID":     err3,
		"FetchJWTBundles":  first(err4, func() error { _, err := keys.Recv(); return err }),
		"ValidateJWTSVID":  err5,
		"FetchWITSVID":     first(err6, func() error { _, err := wits.Recv(); return err }),
		"FetchWITBundles":  first(err7, func() error { _, err := witKeys.Recv(); return err }),
	}
}

// Rule 75, 80, 83, 87, 93: the code of every RPC in every situation of the table of
// Workload Endpoint 6, and no other.
func TestRule80EveryRPCInEverySituation(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		set    func(*world)
		header bool
		want   codes.Code
		but    map[string]codes.Code
	}{
		"served":              {header: true, want: codes.OK, but: map[string]codes.Code{"ValidateJWTSVID": codes.InvalidArgument}}, // no token that could be valid
		"without the header":  {want: codes.InvalidArgument},
		"without an identity": {set: func(w *world) { w.ev.Matches = nil }, header: true, want: codes.PermissionDenied},
		"a process that is gone": {
			set: func(w *world) { w.evErr = fault.Deniedf("process 4242 is gone") }, header: true, want: codes.PermissionDenied,
		},
		"an agent without rules yet": {set: func(w *world) { w.evErr = Unheard{} }, header: true, want: codes.Unavailable},
		"refused by the server": {
			set: func(w *world) { w.refuse = "no rule says so" }, header: true, want: codes.OK,
			but: map[string]codes.Code{"FetchX509SVID": codes.PermissionDenied, "FetchJWTSVID": codes.PermissionDenied, "FetchWITSVID": codes.PermissionDenied, "ValidateJWTSVID": codes.InvalidArgument},
		},
		"the server away": {
			set: func(w *world) { w.away, w.wait = errors.New("connection refused"), awayWait }, header: true, want: codes.OK,
			but: map[string]codes.Code{"FetchX509SVID": codes.Unavailable, "FetchJWTSVID": codes.Unavailable, "FetchWITSVID": codes.Unavailable, "ValidateJWTSVID": codes.InvalidArgument},
		},
		"a profile that is off": {
			set: func(w *world) { w.witKey = nil }, header: true, want: codes.OK,
			but: map[string]codes.Code{"FetchWITSVID": codes.Unimplemented, "FetchWITBundles": codes.Unimplemented, "ValidateJWTSVID": codes.InvalidArgument},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWITWorld(t)
			w.ev.Attributes = registry.Attributes{"workload.unix.uid": "1000"}
			if tc.set != nil {
				w.set(func() { tc.set(w) })
			}
			e := start(t, w, 0)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if tc.header {
				ctx = secured(ctx)
			}
			for rpc, err := range everyRPC(ctx, e) {
				want := tc.want
				if other, ok := tc.but[rpc]; ok {
					want = other
				}
				t.Run(rpc, func(t *testing.T) { wantCode(t, err, want) })
			}
		})
	}
	e := start(t, newWITWorld(t), 0)
	ctx, cancel := context.WithTimeout(secured(t.Context()), time.Minute)
	defer cancel()
	_, err := e.api().FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{})
	wantCode(t, err, codes.InvalidArgument)
	for _, req := range []*workloadpb.ValidateJWTSVIDRequest{{}, {Audience: "billing"}, {Svid: "a.b.c"}} {
		_, err = e.api().ValidateJWTSVID(ctx, req)
		wantCode(t, err, codes.InvalidArgument)
	}
}
