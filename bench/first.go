package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"
)

// firstRole times one stream from its connection to its first message: first
// <socket>.
func firstRole(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("first SOCKET")
	}
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
