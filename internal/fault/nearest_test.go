package fault

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"web", "orders", "ledger", "trust_domain", "web-to-stock-k74ky"}
	for word, want := range map[string]string{
		"order": "orders", "ordres": "orders", "wbe": "web", "trust_domian": "trust_domain",
		"xyz": "", "web-to-stock": "web-to-stock-k74ky", "we": "web", "le": "", "": "", strings.Repeat("o", 1000): "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%.20q): got %q, want %q", word, got, want)
		}
	}
}
