//go:build race

package runtest

// Raced tells that the race detector is on, which makes what only computes some
// ten times dearer. Tests of one goroutine that try thousands of cases try fewer
// with it; `make test-whole` runs them without.
const Raced = true
