package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/kith-id/kith/internal/fault"
)

// Report is what Verify found: a chain that is whole.
type Report struct {
	// First is the number of its first line: 1, or later where files that were
	// too many have gone. An event in the chain tells of that.
	First uint64
	// Head is where it ends.
	Head Head
	// Files is in how many files it lies.
	Files int
	// Holds says that the head which was asked for is part of it.
	Holds bool
}

// Verify reads the log at path, from the first line of its oldest file to its
// last, and checks that each follows from the one before. Lines cut off the end
// leave a chain that is whole: give a Head that was kept elsewhere, and the Report
// says whether the chain holds it. A last line without its newline is one being
// written, or cut short by a crash; it does not count.
func Verify(path string, kept Head) (Report, error) {
	files, err := openAll(path)
	if err != nil {
		return Report{}, fmt.Errorf("verify audit log: %w", err)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	c := chain{head: Head{Hash: zeroHash()}, kept: kept}
	for _, f := range files {
		if err := c.read(f); err != nil {
			return c.report(len(files)), fmt.Errorf("verify audit log %s: %w", f.Name(), err)
		}
	}
	if err := c.checkStart(); err != nil {
		return c.report(len(files)), fmt.Errorf("verify audit log %s: %w", path, err)
	}
	return c.report(len(files)), nil
}

// openAll opens the files of a log, oldest first. The present one is opened before
// the others are looked for: if it becomes an earlier one meanwhile, it is the last
// of them.
func openAll(path string) (files []*os.File, err error) {
	present, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	now, err := present.Stat()
	if err != nil {
		return nil, errors.Join(err, present.Close())
	}
	earlier, err := earlierFiles(path)
	for _, name := range earlier {
		f, openErr := os.Open(name)
		if openErr != nil {
			err = openErr
			break
		}
		info, statErr := f.Stat()
		if statErr == nil && os.SameFile(info, now) {
			f.Close()
			break
		}
		files = append(files, f)
	}
	if files = append(files, present); err == nil {
		return files, nil
	}
	for _, f := range files {
		f.Close()
	}
	return nil, err
}

// chain is what was read so far.
type chain struct {
	head  Head
	kept  Head // asked for
	holds bool
	first uint64 // number of the first line, 0 before any
	prev  string // what it says came before
	// What the log says of lines that were removed from its beginning.
	droppedTo   uint64
	droppedHash string
}

func (c *chain) report(files int) Report {
	return Report{First: c.first, Head: c.head, Files: files, Holds: c.holds}
}

// read goes on with one file.
func (c *chain) read(r io.Reader) error {
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return broken(c.head, "is over %d bytes long", maxLine)
		case err != nil:
			return err
		}
		if err := c.add(text); err != nil {
			return err
		}
	}
}

func (c *chain) add(text []byte) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return broken(c.head, "is no event")
	}
	if c.first == 0 {
		c.first, c.prev = l.Seq, l.Prev
		if l.Seq > 1 { // if that is as it should be, checkStart says
			c.head = Head{l.Seq - 1, l.Prev}
		}
	}
	if l.Seq != c.head.Seq+1 || l.Seq == 0 { // which follows the highest number there is
		return broken(c.head, "has the number %d: lines are missing or moved", l.Seq)
	}
	if l.Prev != c.head.Hash {
		return broken(c.head, "does not follow from line %d: one of the two was changed", c.head.Seq)
	}
	if l.Kind == Dropped {
		c.droppedTo, _ = strconv.ParseUint(l.Facts["to"], 10, 64) // 0 is no line
		c.droppedHash = l.Facts["hash"]
	}
	c.head = Head{l.Seq, hashOf(text)}
	c.holds = c.holds || c.head == c.kept
	return nil
}

// checkStart demands of a chain that does not begin at line 1 that it tells of the
// end of all lines before, and by which hash the last of them is known.
func (c *chain) checkStart() error {
	if c.first <= 1 || c.droppedTo == c.first-1 && c.droppedHash == c.prev {
		return nil
	}
	return broken(Head{Seq: c.first - 1}, "is the first one, and the log does not say where those before it are")
}

func broken(head Head, format string, args ...any) error {
	err := fault.Invalidf("line %d %s", head.Seq+1, fmt.Sprintf(format, args...))
	return fault.Hint(err, "keep the file as evidence and compare it with a copy shipped earlier")
}
