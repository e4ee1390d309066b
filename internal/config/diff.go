package config

import (
	"strings"

	"github.com/kith-id/kith/internal/pb"
)

// Diff shows the lines that differ between two objects' YAML, "-" and "+" in
// front, unchanged lines with a blank. Either may be nil, for an object that is
// created or deleted.
func Diff(before, after *pb.Object) (string, error) {
	var texts [2][]string
	for i, o := range []*pb.Object{before, after} {
		if o == nil {
			continue
		}
		data, err := EncodeObject(o)
		if err != nil {
			return "", err
		}
		texts[i] = strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	}
	return diffLines(texts[0], texts[1]), nil
}

// diffLines is the shortest edit of a into b, by longest common subsequence.
// What is common at both ends is cut first; objects whose rest is absurdly long
// are shown whole, before then after.
func diffLines(a, b []string) string {
	var out strings.Builder
	write := func(mark string, lines []string) {
		for _, l := range lines {
			out.WriteString(mark + l + "\n")
		}
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	write(" ", a[:head])
	edit(a[head:len(a)-tail], b[head:len(b)-tail], write)
	write(" ", a[len(a)-tail:])
	return out.String()
}

// edit writes the middle part of a diff.
func edit(a, b []string, write func(mark string, lines []string)) {
	const most = 1 << 20 // cells of the table
	if len(a)*len(b) > most {
		write("-", a)
		write("+", b)
		return
	}
	// common[i][j] is the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			write(" ", a[i:i+1])
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			write("-", a[i:i+1])
			i++
		default:
			write("+", b[j:j+1])
			j++
		}
	}
	write("-", a[i:])
	write("+", b[j:])
}
