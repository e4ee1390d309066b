package fault

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"web", "orders", "ledger", "trust_domain"}
	for word, want := range map[string]string{
		"order": "orders", "ordres": "orders", "wbe": "web", "trust_domian": "trust_domain",
		"xyz": "", "": "", strings.Repeat("o", 1000): "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%.20q): got %q, want %q", word, got, want)
		}
	}
}
