package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// userOf is the real user of a process.
func userOf(pid int) (int, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if ids, ok := strings.CutPrefix(lines.Text(), "Uid:"); ok {
			return strconv.Atoi(strings.Fields(ids)[0])
		}
	}
	return 0, errors.Join(errors.New("not told by /proc"), lines.Err())
}
