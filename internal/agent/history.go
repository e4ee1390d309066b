package agent

// behind says whether revisions up to the former world's do not lead to this one,
// as when the server's state was put back to an older one.
func (w *world) behind(former *world) bool {
	return w.revision < former.revision || w.revision == former.revision && w.mark != former.mark
}

// startOver makes every point's slice one that it has yet to get: what it has
// acked are revisions of another history. The caller holds mu.
func (s *points) startOver() {
	for p := range s.all {
		p.returned = p.returned || p.acked > 0 // it lets in what it was told before
		p.slice, p.cut, p.wanted, p.acked, p.sent = nil, nil, 0, 0, 0
	}
}
