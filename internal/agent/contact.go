package agent

import (
	"sync"
	"time"
)

// contact is what is known of the way to the server.
type contact struct {
	now func() time.Time

	mu        sync.Mutex
	connected bool
	last      time.Time // when the server was heard last
	skew      time.Duration
	failure   string
}

// heard notes a message; it reports whether it is the first of a stream.
func (c *contact) heard() (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = !c.connected
	c.connected, c.last, c.failure = true, c.now(), ""
	return first
}

// lost notes the end of a stream; it reports whether the stream had worked.
func (c *contact) lost(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.connected
	if was {
		c.last = c.now()
	}
	c.connected = false
	if err != nil {
		c.failure = err.Error()
	}
	return was
}

func (c *contact) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err.Error()
}

func (c *contact) setSkew(skew time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = skew
}

func (c *contact) get() (connected bool, last time.Time, skew time.Duration, failure string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected, c.last, c.skew, c.failure
}
