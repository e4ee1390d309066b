package spiffe

// Remembered is how many issuing certificates a bundle has been found to vouch for.
func (b *Bundle) Remembered() int {
	b.issuers.mu.RLock()
	defer b.issuers.mu.RUnlock()
	return len(b.issuers.known)
}
