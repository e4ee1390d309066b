package store

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be the member that OpenEtcd starts.
func TestMain(m *testing.M) {
	verb := MemberVerb()
	if len(os.Args) > len(verb) && slices.Equal(os.Args[1:1+len(verb)], verb) {
		if err := RunMember(context.Background(), os.Args[1+len(verb):]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == parentVerb {
		if err := runParent(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// These tests wait for processes far more than they compute.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
