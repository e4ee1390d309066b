//go:build !linux

package ca

import "os"

// syncFile syncs the whole file where there is no cheaper way.
type syncFile struct{ *os.File }
