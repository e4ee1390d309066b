package config_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/pb"
)

func TestExternalDecisionsComeBackAsTheyWereWritten(t *testing.T) {
	want := &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{
		Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", Owner: "shop", External: []*pb.External{
			{Name: "fraud", Actions: []string{"* /v1/pay/{**}"}, Opa: "http://127.0.0.1:8181/v1/data/a", Timeout: durationpb.New(2 * time.Second), Headers: []string{"*"}},
			{Name: "gate", ExtAuthz: "https://gate.example", Socket: "/run/gate.sock", Ca: "-----BEGIN CERTIFICATE-----\nx\n"},
		},
	}}}
	text, err := config.EncodeObject(want)
	if err != nil {
		t.Fatal(err)
	}
	s, err := config.ParseState("f.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if diff := cmp.Diff([]*pb.Object{want}, s.Objects, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s\n%s", diff, text)
	}
}
