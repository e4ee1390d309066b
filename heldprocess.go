package kith

import (
	"errors"
	"os"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/spiffe"
)

// heldProcess is the process that a reference meant when it was first asked about. An
// endpoint holds it for as long as a call lasts; between two calls, as when the agent
// starts again, the number may have come to mean another process.
type heldProcess struct{ process *os.Process }

// holdProcess takes hold of it. What is none of ours to see is left to the endpoint.
func holdProcess(ref spiffe.Reference) heldProcess {
	if ref.PID() == 0 {
		return heldProcess{}
	}
	process, err := os.FindProcess(int(ref.PID()))
	if err != nil {
		return heldProcess{}
	}
	if h := (heldProcess{process}); h.ended() == nil {
		return h
	}
	_ = process.Release() // the endpoint says that there is none
	return heldProcess{}
}

// ended says that it is no more. Nothing that is said of its number from then on is
// about it.
func (h heldProcess) ended() error {
	if h.process != nil && errors.Is(h.process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
		return status.Error(codes.NotFound, "the process has ended")
	}
	return nil
}

func (h heldProcess) release() {
	if h.process != nil {
		_ = h.process.Release()
	}
}
