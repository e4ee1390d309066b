package registry

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

func TestValidateAudience(t *testing.T) {
	var many []string
	for i := range 17 {
		many = append(many, fmt.Sprint(i))
	}
	for _, good := range [][]string{{"orders"}, {"https://vault.example:8200/v1?x=1&y=<2>", "Заказы"}, many[:16], {strings.Repeat("a", 256)}} {
		if err := ValidateAudience(good); err != nil {
			t.Errorf("%.40q: %v", good, err)
		}
	}
	wide := func(c string) string { return strings.Repeat(c, 256) }
	for _, bad := range [][]string{
		nil,
		{},
		{""},
		{"orders", ""},
		{"a b"},
		{"a\n"},
		{"a\x00"},
		{"\xff"},
		{"a\u202eb"},
		{"a", "a"},
		many,
		{strings.Repeat("a", 257)},
		{wide("a"), wide("b"), wide("c"), wide("d"), "e"},
	} {
		if err := ValidateAudience(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.40q: got %v, want it refused", bad, err)
		}
	}
}
