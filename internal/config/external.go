package config

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/pb"
)

// external is a program that is asked about what rules allow.
type external struct {
	At position `yaml:"-"`
	// Name is what decisions call it.
	Name string `yaml:"name"`
	// Actions are what it is asked about; everything if left out.
	Actions []string `yaml:"actions,omitempty"`
	// OPA is the URL of a document of an OPA server: http://127.0.0.1:8181/v1/data/shop/allow.
	OPA string `yaml:"opa,omitempty"`
	// ExtAuthz is the URL of an ext_authz v3 service, in place of opa.
	ExtAuthz string `yaml:"ext_authz,omitempty"`
	// Socket is the Unix socket it is reached by, in place of the URL's host.
	Socket string `yaml:"socket,omitempty"`
	// CA holds the certificates, in PEM, that it is verified by.
	CA string `yaml:"ca,omitempty"`
	// Timeout is how long it may take; then the request is denied.
	Timeout Duration `yaml:"timeout,omitempty"`
	// Headers are the request's that it sees; "*" for all.
	Headers []string `yaml:"headers,omitempty,flow"`
}

func (e external) message() *pb.External {
	m := &pb.External{
		Name: e.Name, Actions: e.Actions, Opa: e.OPA, ExtAuthz: e.ExtAuthz, Socket: e.Socket, Ca: e.CA, Headers: e.Headers,
	}
	if e.Timeout != 0 {
		m.Timeout = durationpb.New(time.Duration(e.Timeout))
	}
	return m
}

func externalOf(m *pb.External) external {
	return external{
		Name: m.GetName(), Actions: m.GetActions(), OPA: m.GetOpa(), ExtAuthz: m.GetExtAuthz(), Socket: m.GetSocket(),
		CA: m.GetCa(), Timeout: Duration(m.GetTimeout().AsDuration()), Headers: m.GetHeaders(),
	}
}
