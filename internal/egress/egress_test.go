package egress_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/egress"
)

// Attack 50: names that lead to this host, its links, private networks and the
// metadata services of clouds, in every spelling an address has.
func TestAttack50AddressesThatAreNotDialled(t *testing.T) {
	never := []string{
		"127.0.0.1", "127.8.9.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.0.192",
		"::1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1",
	}
	private := []string{"10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1", "fc00::1", "fd12::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "64:ff9b:1::1"}
	public := []string{"8.8.8.8", "172.32.0.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"}
	check := func(reach egress.Reach, texts []string, refused bool) {
		t.Helper()
		for _, text := range texts {
			if err := reach.Check(netip.MustParseAddr(text)); errors.Is(err, egress.ErrAddress) != refused {
				t.Errorf("%+v: %s: %v, want refused: %t", reach, text, err, refused)
			}
		}
	}
	check(egress.Reach{}, never, true)
	check(egress.Reach{}, private, true)
	check(egress.Reach{}, public, false)
	check(egress.Reach{Private: true}, never, true)
	check(egress.Reach{Private: true}, private, false)
	listed := egress.Reach{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("127.0.0.1/32")}}
	check(listed, []string{"10.1.2.3", "::ffff:10.1.2.3", "127.0.0.1"}, false)
	check(listed, []string{"10.2.0.1", "127.0.0.2", "169.254.169.254"}, true)
}

// Attack 50: the address counts that is connected to, not the name.
func TestAttack50DialLooksAtTheAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, host := range []string{"127.0.0.1", "localhost", "::ffff:127.0.0.1"} {
		if conn, err := (egress.Reach{Private: true}).Dial(ctx, "tcp", net.JoinHostPort(host, port)); !errors.Is(err, egress.ErrAddress) {
			t.Errorf("%s: dialled %v, %v", host, conn, err)
		}
	}
	conn, err := egress.Reach{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}.Dial(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("a listed network: %v", err)
	}
	conn.Close()
}
