package ca

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// The journal's file: two header slots, then a ring of records. A position
// counts bytes since the journal began and never goes back; a record stands at
// its position modulo the ring's capacity and names it, so what is left of an
// earlier lap is never taken for a record of this one.
//
//	slot    magic(8) version(4) 0(4) generation(8) capacity(8) tail(8) latest(8) crc(4)
//	record  magic(4) length(4) position(8) durable(8) time(8) crc(4) 0(4) payload, padded to 8
//
// Slots are written in turn, so that one is always whole. durable is the
// position up to which everything was on disk when the record was written.
const (
	ringMagic    = "kithjrnl"
	ringVersion  = 2
	slotSize     = 56
	slotStride   = 4096 // each slot in its own page
	ringStart    = 2 * slotStride
	recordMagic  = 0x6b4a524e
	recordHeader = 40
	maxPayload   = 8 << 10
	minCapacity  = 64 << 10
	maxCapacity  = 4 << 30
)

// ringFile is what the ring needs of a file. WriteAt may leave any part
// written until Sync returns nil.
type ringFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// ring is the state of the file. Of the journal's locks, disk guards the
// generation and mu guards written; the rest changes under both of them and is
// read under either.
type ring struct {
	file       ringFile
	capacity   uint64
	generation uint64
	tail       uint64 // shipped up to here
	head       uint64 // on disk up to here
	written    uint64 // handed to the file up to here
	latest     int64  // greatest time of any record on disk, Unix nanoseconds
}

func checksum(parts ...[]byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	var sum uint32
	for _, part := range parts {
		sum = crc32.Update(sum, table, part)
	}
	return sum
}

// writeSlot notes durably what is to become the tail, and latest.
func (r *ring) writeSlot(tail uint64) error {
	slot := make([]byte, slotSize)
	copy(slot, ringMagic)
	binary.LittleEndian.PutUint32(slot[8:], ringVersion)
	binary.LittleEndian.PutUint64(slot[16:], r.generation+1)
	binary.LittleEndian.PutUint64(slot[24:], r.capacity)
	binary.LittleEndian.PutUint64(slot[32:], tail)
	binary.LittleEndian.PutUint64(slot[40:], uint64(r.latest))
	binary.LittleEndian.PutUint32(slot[48:], checksum(slot[:48]))
	if _, err := r.file.WriteAt(slot, int64((r.generation+1)%2)*slotStride); err != nil {
		return err
	}
	if err := r.file.Sync(); err != nil {
		return err
	}
	r.generation++
	return nil
}

// openRing reads the newest slot and follows the records from its tail.
func openRing(file ringFile, size int64) (*ring, error) {
	r := &ring{file: file}
	for i := range int64(2) {
		slot := make([]byte, slotSize)
		if _, err := file.ReadAt(slot, i*slotStride); err != nil {
			return nil, fmt.Errorf("read header: %w", err)
		}
		if string(slot[:8]) != ringMagic || binary.LittleEndian.Uint32(slot[48:]) != checksum(slot[:48]) {
			continue
		}
		if v := binary.LittleEndian.Uint32(slot[8:]); v != ringVersion {
			return nil, fault.Invalidf("is of version %d, this program knows version %d", v, ringVersion)
		}
		if generation := binary.LittleEndian.Uint64(slot[16:]); generation > r.generation {
			r.generation = generation
			r.capacity = binary.LittleEndian.Uint64(slot[24:])
			r.tail = binary.LittleEndian.Uint64(slot[32:])
			r.latest = int64(binary.LittleEndian.Uint64(slot[40:]))
		}
	}
	if r.generation == 0 || r.capacity < minCapacity || r.capacity%8 != 0 ||
		r.tail%8 != 0 || r.tail > math.MaxInt64 || uint64(size) != ringStart+r.capacity {
		return nil, errors.New("has no valid header")
	}
	return r, r.recover()
}

// recover finds the head. The record that ends the chain may be one that a
// crash has torn; it was never acknowledged. It is damage instead if a later
// record says that it was on disk once.
func (r *ring) recover() error {
	r.head = r.tail
	for r.head-r.tail < r.capacity {
		record, err := r.read(r.head)
		if err != nil {
			return err
		}
		if record == nil {
			break
		}
		r.head += record.size()
		r.latest = max(r.latest, record.time)
	}
	r.written = r.head
	return r.searchDamage()
}

// searchDamage looks for records beyond the head, a chunk at a time. Most of what
// is there is nothing, so it is searched for the first word of a record only.
func (r *ring) searchDamage() error {
	const chunk, word = 64 << 10, 8 // all sizes are multiples of a word
	magic := binary.LittleEndian.AppendUint32(nil, recordMagic)
	buf := make([]byte, chunk+word) // with the position of a record that begins at the chunk's end
	for from, end := r.head, r.tail+r.capacity; from < end; from += chunk {
		part := buf[:min(uint64(len(buf)), end-from)]
		if err := r.readAt(part, from); err != nil {
			return err
		}
		for i := 0; ; i++ {
			next := bytes.Index(part[i:], magic)
			if i += next; next < 0 || i+2*word > len(part) {
				break
			}
			pos := from + uint64(i)
			if i%word != 0 || binary.LittleEndian.Uint64(part[i+word:]) != pos {
				continue
			}
			record, err := r.read(pos)
			if err != nil {
				return err
			}
			if record != nil && record.durable > r.head {
				return fmt.Errorf("is damaged at position %d: later records say that an entry stood there", r.head)
			}
		}
	}
	return nil
}

type record struct {
	durable uint64
	time    int64
	payload []byte
}

func (rec record) size() uint64 { return recordSize(len(rec.payload)) }

func recordSize(payload int) uint64 { return uint64(recordHeader+payload+7) &^ 7 }

// read returns nil if no record of this lap stands whole at pos.
func (r *ring) read(pos uint64) (*record, error) {
	text := make([]byte, recordHeader)
	if err := r.readAt(text, pos); err != nil {
		return nil, err
	}
	if length, ok := r.begins(text, pos); ok {
		text = make([]byte, recordHeader+length)
		if err := r.readAt(text, pos); err != nil {
			return nil, err
		}
	}
	return r.parse(text, pos), nil
}

// begins says how long the payload is of a record that has its header at pos.
func (r *ring) begins(header []byte, pos uint64) (length int, ok bool) {
	n := binary.LittleEndian.Uint32(header[4:])
	if binary.LittleEndian.Uint32(header) != recordMagic || n > maxPayload ||
		binary.LittleEndian.Uint64(header[8:]) != pos || pos+recordSize(int(n)) > r.tail+r.capacity {
		return 0, false
	}
	return int(n), true
}

// parse reads the record at the front of what stands from pos on, or returns nil.
func (r *ring) parse(text []byte, pos uint64) *record {
	if len(text) < recordHeader {
		return nil
	}
	header, rest := text[:recordHeader], text[recordHeader:]
	length, ok := r.begins(header, pos)
	if !ok || length > len(rest) || binary.LittleEndian.Uint32(header[32:]) != checksum(header[:32], rest[:length]) {
		return nil
	}
	return &record{
		durable: binary.LittleEndian.Uint64(header[16:]),
		time:    int64(binary.LittleEndian.Uint64(header[24:])),
		payload: rest[:length:length],
	}
}

// appendRecord adds the bytes of a record that will stand at pos.
func (r *ring) appendRecord(buf []byte, pos uint64, payload []byte, at time.Time) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, recordSize(len(payload)))...)
	rec := buf[start:]
	binary.LittleEndian.PutUint32(rec, recordMagic)
	binary.LittleEndian.PutUint32(rec[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(rec[8:], pos)
	binary.LittleEndian.PutUint64(rec[16:], r.head)
	binary.LittleEndian.PutUint64(rec[24:], uint64(at.UnixNano()))
	copy(rec[recordHeader:], payload)
	binary.LittleEndian.PutUint32(rec[32:], checksum(rec[:32], payload))
	return buf
}

func (r *ring) readAt(buf []byte, pos uint64) error {
	offset := pos % r.capacity
	first := min(uint64(len(buf)), r.capacity-offset)
	if _, err := r.file.ReadAt(buf[:first], int64(ringStart+offset)); err != nil {
		return fmt.Errorf("read at position %d: %w", pos, err)
	}
	if _, err := r.file.ReadAt(buf[first:], ringStart); err != nil && first < uint64(len(buf)) {
		return fmt.Errorf("read at position %d: %w", pos, err)
	}
	return nil
}

func (r *ring) writeAt(buf []byte, pos uint64) error {
	offset := pos % r.capacity
	first := min(uint64(len(buf)), r.capacity-offset)
	if _, err := r.file.WriteAt(buf[:first], int64(ringStart+offset)); err != nil {
		return err
	}
	if first == uint64(len(buf)) {
		return nil
	}
	_, err := r.file.WriteAt(buf[first:], ringStart)
	return err
}

// readFrom returns records from pos on, little more than limit bytes of them, and
// where the next one stands. All of them are on disk, so one that cannot be read is
// damage.
func (r *ring) readFrom(pos, head, limit uint64) (payloads [][]byte, next uint64, err error) {
	text := make([]byte, min(head-pos, limit+recordSize(maxPayload)))
	if err := r.readAt(text, pos); err != nil {
		return nil, pos, err
	}
	for next = pos; next < head && next-pos < limit; {
		record := r.parse(text[next-pos:], next)
		if record == nil {
			return nil, pos, fmt.Errorf("is damaged at position %d", next)
		}
		payloads = append(payloads, record.payload)
		next += record.size()
	}
	return payloads, next, nil
}
