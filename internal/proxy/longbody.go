package proxy

import (
	"errors"
	"net"
)

// longBody is from when on the rest of a body of known length goes through larger
// spaces than heads need.
const longBody = 64 << 10

// passLong sends the rest of an answer's body back.
func (l *line) passLong(f *far, b *body) error {
	in, out := newIntake(f.conn, l.set.buffers), newOutlet(l.conn)
	in.unsure = f.intake.unsure
	for b.left > 0 {
		f.patience()
		piece, err := in.next()
		if over := int64(len(piece)) - b.left; over > 0 {
			piece = piece[:b.left]
			l.answer.closes = true // it has said more than it was asked
		}
		b.left -= int64(len(piece))
		if len(piece) > 0 {
			_, err = out.Write(piece)
		}
		in.done()
		var network net.Error
		switch {
		case err == nil:
		case errors.As(err, &network) && network.Timeout() && len(piece) == 0:
			if l.socket.isGone() {
				return errGone
			}
		default:
			return err
		}
	}
	f.intake.unsure = in.unsure
	b.at = ended
	return nil
}

// sendLong sends the rest of a request's body on; what is read beyond it is the
// next request.
func (s *send) sendLong(f *far) error {
	l := s.l
	in, out := newIntake(l.conn, l.set.buffers), newOutlet(f.conn)
	in.unsure = true // heads are read into less than a record's content
	for l.body.left > 0 {
		piece, err := in.next()
		if len(piece) == 0 && err != nil {
			in.done()
			return errBody
		}
		if over := int64(len(piece)) - l.body.left; over > 0 {
			l.in = append([]byte(nil), piece[l.body.left:]...)
			l.r, l.w = 0, len(l.in)
			piece = piece[:l.body.left]
		}
		if l.body.left -= int64(len(piece)); l.body.left == 0 {
			l.body.at = ended
			s.read.Store(true) // before the other side can answer the whole
		}
		_, err = out.Write(piece)
		in.done()
		if err != nil {
			return err
		}
	}
	return nil
}
