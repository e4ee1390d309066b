package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// selfCPU is the processor time of this process so far.
func selfCPU() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// cpuOf is the processor time of other processes so far, in nanoseconds where
// /proc/<pid>/stat has ticks of 10 ms: the clock of a process is numbered by its
// pid (CPUCLOCK_SCHED of MAKE_PROCESS_CPUCLOCK).
func cpuOf(pids ...int) time.Duration {
	var sum time.Duration
	for _, pid := range pids {
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}

// memory is what a process has in RAM.
type memory struct{ RSS, Anonymous float64 } // MiB

// memoryOf adds up smaps_rollup of processes.
func memoryOf(pids ...int) memory {
	var sum memory
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) < 3 {
				continue
			}
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				continue
			}
			switch fields[0] {
			case "Rss:":
				sum.RSS += kib / 1024
			case "Anonymous:":
				sum.Anonymous += kib / 1024
			}
		}
	}
	return sum
}

// childrenOf are the processes that pid has started and that still run.
func childrenOf(pid int) []int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err == nil {
		text = nil
		for _, task := range tasks {
			more, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			text = append(text, more...)
		}
	}
	var pids []int
	for _, field := range bytes.Fields(text) {
		if child, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, child)
		}
	}
	return pids
}

// monotonic is a clock that all processes of this machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// quantile is the q-quantile of unsorted values, 0 for none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// load says how much other work the machine had, as the one-minute average.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// familyCPU is the processor time of this process and of all that it started and
// that has ended.
func familyCPU() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &usage); err != nil {
		return 0
	}
	return selfCPU() + time.Duration(usage.Utime.Nano()+usage.Stime.Nano())
}

// busy is the processor time that everything on this machine has used, and what its
// host gave to others while it wanted to run: what an absolute figure has to be read
// with.
func busy() (used, stolen time.Duration) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			continue
		}
		switch ticks := time.Duration(n) * 10 * time.Millisecond; i { // proc_stat(5)
		case 0, 1, 2, 5, 6:
			used += ticks
		case 7:
			stolen = ticks
		}
	}
	return used, stolen
}

// machine names where the figures come from.
func machine() string {
	model := "unknown processor"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel := "?"
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		kernel = unix.ByteSliceToString(uts.Release[:])
	}
	system := "Linux"
	if text, err := os.ReadFile("/etc/os-release"); err == nil {
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				system = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s, Linux %s, %s", runtime.NumCPU(), model, system, kernel, runtime.Version())
}
