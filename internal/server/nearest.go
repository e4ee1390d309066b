package server

import "slices"

// nearestName is the name a person most likely meant, or "" if none is close.
func nearestName(name string, names []string) string {
	best, limit := "", max(1, len(name)/3)+1
	if len(name) > 128 {
		return ""
	}
	for _, candidate := range slices.Sorted(slices.Values(names)) {
		if d := distance(name, candidate); d < limit {
			best, limit = candidate, d
		}
	}
	return best
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
