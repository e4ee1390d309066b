// Package egress dials where it may: it looks at each address after a name was
// resolved and before the connection is made, so that no name, and no DNS answer
// that changes, leads to this host or to what only this host can reach; and it
// reads what is answered there within bounds. What it means is others' work.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const dialTimeout = 5 * time.Second

// ErrAddress says that a name led to an address that is not dialled.
var ErrAddress = errors.New("address is refused")

// Reach is which addresses may be dialled. The zero Reach is public ones alone.
type Reach struct {
	// Private lets private networks be dialled too: never this host, its links,
	// or where clouds keep the credentials of whoever asks.
	Private bool
	// Allow are networks that may be dialled whatever they are.
	Allow []netip.Prefix
}

// Check refuses an address that may not be dialled. An IPv6 address that stands
// for an IPv4 one is judged as that.
func (r Reach) Check(at netip.Addr) error {
	at = at.WithZone("")
	plain := embedded(at)
	for _, network := range r.Allow {
		if network.Contains(at.Unmap()) || network.Contains(plain) {
			return nil
		}
	}
	refused := never()
	if !r.Private {
		refused = append(refused, private()...)
	}
	for _, network := range refused {
		if network.Contains(plain) {
			return fmt.Errorf("%w: %s is in %s", ErrAddress, at, network)
		}
	}
	return nil
}

// Dial is a net.Dialer's DialContext that checks each address.
func (r Reach) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{
		Timeout: dialTimeout, KeepAlive: -1,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %s", ErrAddress, address)
			}
			return r.Check(at.Addr())
		},
	}
	return dialer.DialContext(ctx, network, address)
}

// embedded is the IPv4 address that some IPv6 addresses stand for: mapped ones,
// those of NAT64 (RFC 6052) and of 6to4 (RFC 3056).
func embedded(at netip.Addr) netip.Addr {
	at = at.Unmap()
	if !at.Is6() {
		return at
	}
	b := at.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(at):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case netip.MustParsePrefix("2002::/16").Contains(at):
		return netip.AddrFrom4([4]byte(b[2:6]))
	default:
		return at
	}
}

// never is this host, its links, groups and nobody, and the metadata services of
// clouds that are on other addresses than link-local ones.
func never() []netip.Prefix {
	return prefixes(
		"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "192.0.0.0/24",
		"::/127", "fe80::/10", "fec0::/10", "ff00::/8", "2001::/32", "100::/64",
		"fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32", // AWS, Alibaba, Azure
	)
}

// private is what is no place of the public Internet (RFC 6890).
func private() []netip.Prefix {
	return prefixes(
		"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
		"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "fc00::/7", "64:ff9b:1::/48", "2001:db8::/32",
	)
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}
