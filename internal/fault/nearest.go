package fault

import (
	"slices"
	"strings"
)

// Nearest is the word a person most likely meant by a misspelt one, or "" if
// none is within a third of its letters. Swapped neighbours count as one slip.
// It is for hints; the candidates need not be sorted.
func Nearest(word string, candidates []string) string {
	const longest = 128 // an absurd word gets no suggestion and costs nothing
	if len(word) > longest {
		return ""
	}
	best, limit := "", max(1, len(word)/3)+1
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if len(c) > longest {
			continue
		}
		if d := distance(word, c); d < limit {
			best, limit = c, d
		}
	}
	if best != "" || len(word) < 3 {
		return best
	}
	for _, c := range candidates { // names that were made have endings nobody types
		if strings.HasPrefix(c, word) && len(c) <= longest && (best == "" || len(c) < len(best) || len(c) == len(best) && c < best) {
			best = c
		}
	}
	return best
}

// distance is the optimal string alignment distance in bytes.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
