package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// What bounds a journal: beyond it the cache is written as a whole again. A start
// reads and applies that much.
const (
	maxJournal  = 4 << 20
	maxRecords  = 1024
	journalAge  = time.Hour
	frameSize   = 8 // of what is before a record: its length and checksum
	journalForm = 1
)

// record is one entry of a journal: what has changed since the one before.
type record struct {
	Form int `json:"form"`
	// Of and Number bind it to its place: the cache it goes on from, and where.
	Of     string   `json:"of"`
	Number int      `json:"number"`
	Deltas [][]byte `json:"deltas,omitempty"` // kith.v1.Delta, one on top of the other
	Beside *beside  `json:"beside,omitempty"` // nil: as it was
}

// journal is state.journal: what has changed since state.cache was written, so that
// a change of one rule costs what the rule costs and not what there is. Each record
// is sealed as the cache is, for its place behind that very cache: none can be put
// elsewhere, left out before others, or taken from another journal. Not safe for
// concurrent use.
type journal struct {
	files files
	now   func() time.Time

	of      string   // the cache that it goes on from; "" for none
	file    *os.File // nil before the first record
	records int
	size    int64
	began   time.Time
}

// errFull is a journal that has reached its bounds, or has no cache to go on from.
var errFull = errors.New("the cache is to be written as a whole")

// add appends a record. After an error there may be half of it in the file: the
// cache is to be written as a whole.
func (j *journal) add(r record) error {
	now := j.now()
	if j.of == "" || j.records >= maxRecords || j.records > 0 && (now.Sub(j.began) >= journalAge || now.Before(j.began)) {
		return errFull
	}
	r.Form, r.Of, r.Number = journalForm, j.of, j.records
	frame, err := j.files.frame(r)
	if err != nil {
		return err
	}
	if j.size+int64(len(frame)) > maxJournal {
		return errFull
	}
	if j.file == nil {
		os.Remove(j.files.journal()) // of before: what lies there is not followed, nor its mode kept
		if j.file, err = os.OpenFile(j.files.journal(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600); err != nil {
			return err
		}
		if err := j.files.sync(); err != nil { // the file's name is as durable as what is in it
			return err
		}
		j.began = now
	}
	if _, err := j.file.Write(frame); err != nil {
		return err
	}
	j.records++
	j.size += int64(len(frame))
	return j.file.Sync()
}

// end forgets the journal: of is the cache that the next one goes on from. The
// cache has to be on disk for good before, as what is forgotten is in it.
func (j *journal) end(of string) error {
	err := j.close()
	*j = journal{files: j.files, now: j.now, of: of}
	if gone := os.Remove(j.files.journal()); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// frame is a record as it lies in the file: length, checksum, and the record, sealed
// where there is a KEK. The checksum tells what a crash cut off; who may have written
// it, and where, the seal says.
func (f files) frame(r record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if f.kek != nil {
		if text, err = f.kek.Seal(f.place(r.Of, r.Number), text); err != nil {
			return nil, err
		}
	}
	out := binary.BigEndian.AppendUint32(make([]byte, 0, frameSize+len(text)), uint32(len(text)))
	out = binary.BigEndian.AppendUint32(out, crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)))
	return append(out, text...), nil
}

// place is what a record is sealed for.
func (f files) place(of string, number int) string {
	return fmt.Sprintf("%s %s %d", purpose(f.journal()), of, number)
}

// readJournal reads the records that go on from a cache, up to the first that is not
// whole or not one of them; err says where that was and why.
func (f files) readJournal(of string) (all []record, err error) {
	file, err := os.OpenFile(f.journal(), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxJournal+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxJournal {
		return nil, fault.Invalidf("%s has more than %d bytes", f.journal(), maxJournal)
	}
	for len(data) > 0 {
		r, rest, err := f.unframe(of, len(all), data)
		if err != nil {
			return all, fmt.Errorf("%s, record %d: %w", f.journal(), len(all), err)
		}
		if all, data = append(all, r), rest; len(all) > maxRecords {
			return nil, fault.Invalidf("%s has more than %d records", f.journal(), maxRecords)
		}
	}
	return all, nil
}

func (f files) unframe(of string, number int, data []byte) (r record, rest []byte, err error) {
	if len(data) < frameSize {
		return r, nil, fault.Invalidf("is cut off")
	}
	length, sum, rest := binary.BigEndian.Uint32(data), binary.BigEndian.Uint32(data[4:]), data[frameSize:]
	if uint64(length) > uint64(len(rest)) {
		return r, nil, fault.Invalidf("is cut off")
	}
	text, rest := rest[:length], rest[length:]
	if crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) != sum {
		return r, nil, fault.Invalidf("is not what was written")
	}
	if f.kek != nil { // a plain one is nobody's: the cache before it was sealed
		if text, err = f.kek.Open(f.place(of, number), text); err != nil {
			return r, nil, err
		}
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, nil, err
	}
	if r.Form != journalForm || r.Of != of || r.Number != number {
		return r, nil, fault.Invalidf("does not go on from what is before it")
	}
	return r, rest, nil
}
