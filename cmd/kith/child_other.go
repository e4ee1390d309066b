//go:build !linux

package main

import "syscall"

// adoptOrphans does nothing: only Linux has child subreapers, so elsewhere the
// claim of a service name ends with the program that was started.
func adoptOrphans() error { return nil }

// closeMemory does nothing: elsewhere the system asks for rights to attach.
func closeMemory() error { return nil }

func endWithParent() *syscall.SysProcAttr { return nil }

func reapOrphans(int) (stop func()) { return func() {} }
