package main

import (
	"context"
	"encoding/json"
	"os"
	"time"
)

func dataPlane(context.Context, *bench) (section, error)    { return section{}, nil }
func startAndIdle(context.Context, *bench) (section, error) { return section{}, nil }
func backendRole(context.Context, []string) error           { return nil }

// firstRole times one stream from its connection to its first message: first
// <socket>.
func firstRole(ctx context.Context, args []string) error {
	began := time.Now()
	stream, _, err := openStream(ctx, args[0])
	if err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(ms(time.Since(began)))
}
