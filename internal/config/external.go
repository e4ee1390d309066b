package config

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/pb"
)

// external is a program that is asked about what rules allow.
type external struct {
	At       position `yaml:"-"`
	Name     string   `yaml:"name"`
	Actions  []string `yaml:"actions,omitempty"`
	OPA      string   `yaml:"opa,omitempty"`
	ExtAuthz string   `yaml:"ext_authz,omitempty"`
	Socket   string   `yaml:"socket,omitempty"`
	CA       string   `yaml:"ca,omitempty"`
	Timeout  Duration `yaml:"timeout,omitempty"`
	Headers  []string `yaml:"headers,omitempty,flow"`
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
