package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kith-id/kith/internal/fault"
)

// Verify reads the log at path from its first line to its last and checks that
// each follows from the one before. It returns where the chain ends: compare
// that with a Head kept elsewhere, because lines cut off the end leave a chain
// that is whole. A last line without its newline is one being written, or cut
// short by a crash; it does not count.
func Verify(path string) (Head, error) {
	f, err := os.Open(path)
	if err != nil {
		return Head{}, fmt.Errorf("verify audit log: %w", err)
	}
	defer f.Close()
	head, err := verify(f)
	if err != nil {
		return head, fmt.Errorf("verify audit log %s: %w", path, err)
	}
	return head, nil
}

// verify returns the last good place, also with an error.
func verify(r io.Reader) (Head, error) {
	head := Head{Hash: zeroHash()}
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		text, err := lines.ReadSlice('\n')
		switch {
		case err == io.EOF:
			return head, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return head, broken(head, "is over %d bytes long", maxLine)
		case err != nil:
			return head, err
		}
		var l line
		if err := json.Unmarshal(text, &l); err != nil {
			return head, broken(head, "is no event")
		}
		if l.Seq != head.Seq+1 {
			return head, broken(head, "has the number %d: lines are missing or moved", l.Seq)
		}
		if l.Prev != head.Hash {
			return head, broken(head, "does not follow from line %d: one of the two was changed", head.Seq)
		}
		head = Head{l.Seq, hashOf(text)}
	}
}

func broken(head Head, format string, args ...any) error {
	err := fault.Invalidf("line %d %s", head.Seq+1, fmt.Sprintf(format, args...))
	return fault.Hint(err, "keep the file as evidence and compare it with a copy shipped earlier")
}
