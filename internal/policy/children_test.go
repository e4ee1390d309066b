package policy

import (
	"fmt"
	"strings"
	"testing"
)

// Children are found by their own segment from their own parent and by nothing
// else, whether their parent has few or many, and whether a word holds them.
func TestSealedChildrenAreFound(t *testing.T) {
	for _, n := range []int{1, fewAtMost / 2, fewAtMost, 1000} {
		trie := newTrie(0, 0, 0)
		parents := []uint32{trie.root(), trie.root()}
		want := map[string]uint32{}
		for i := range n {
			for _, parent := range parents {
				for _, text := range []string{fmt.Sprint(i), fmt.Sprintf("segment-number-%d", i)} {
					want[fmt.Sprintf("%d/%s", parent, text)] = trie.child(parent, part{kind: literal, text: text})
				}
			}
		}
		trie.seal()
		find := func(parent uint32, segment string) uint32 {
			node, _ := trie.literal(parent, trie.nodes[parent].literals, segment, 0)
			return node
		}
		for at, node := range want {
			var parent uint32
			_, segment, _ := strings.Cut(at, "/")
			if _, err := fmt.Sscan(at[:strings.IndexByte(at, '/')], &parent); err != nil {
				t.Fatal(err)
			}
			if got := find(parent, segment); got != node {
				t.Fatalf("%d children: %q from %d leads to %d, want %d", n, segment, parent, got, node)
			}
			for _, other := range []string{segment + "x", segment + "\x00", "\x00" + segment, segment[1:] + "\x00"} {
				if got := find(parent, other); got != 0 {
					t.Fatalf("%d children: %q leads to %d", n, other, got)
				}
			}
		}
	}
}
