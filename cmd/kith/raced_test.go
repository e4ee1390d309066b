//go:build race

package main

// raced tells that this test has the race detector.
const raced = true
