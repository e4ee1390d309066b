//go:build attacks

package attacks

import (
	"strconv"

	"golang.org/x/net/http2"
)

// perConnection is how many requests go over one HTTP/2 connection: few enough for
// the windows that it begins with.
const perConnection = 100

// askAll asks for each target by HTTP/2, byte for byte as it is, and counts those
// that were answered 200. Requests are numbered from len(targets) on.
func (s *stage) askAll(targets []string) (passed int) {
	s.t.Helper()
	var f *frames
	stream := uint32(1)
	hangUp := func() {
		if f != nil {
			f.conn.Close()
		}
		f, stream = nil, 1
	}
	defer hangUp()
	for i, target := range targets {
		for {
			fresh := f == nil
			if fresh {
				var err error
				if f, err = s.frames(); err != nil {
					s.t.Fatal(err)
				}
			}
			block := f.encode(":method", method(i), ":scheme", "https", ":authority", "orders", ":path", target, "x-number", strconv.Itoa(len(targets)+i))
			status := "end"
			if f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block, EndHeaders: true, EndStream: true}) == nil {
				status = f.status(stream)
			}
			if stream += 2; status == "end" || status == "goaway" || stream > 2*perConnection {
				hangUp()
			}
			if status == "200" {
				passed++
			}
			// A connection that an earlier request had ended has not seen this one.
			if fresh || status != "end" && status != "goaway" {
				break
			}
		}
	}
	return passed
}
