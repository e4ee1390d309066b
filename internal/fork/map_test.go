package fork

import (
	"maps"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// Whatever is put, deleted and forked in whatever order, every Map has what a Go
// map has that was cloned where it was forked.
func TestForksAreCopies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			m    *Map[string, int]
			want map[string]int
		}
		all := []pair{{new(Map[string, int]), map[string]int{}}}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
			key := strconv.Itoa(rapid.IntRange(0, 40).Draw(t, "key"))
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				all = append(all, pair{all[i].m.Fork(), maps.Clone(all[i].want)})
			case 1, 2:
				all[i].m.Delete(key)
				delete(all[i].want, key)
			default:
				v := rapid.IntRange(0, 9).Draw(t, "value")
				all[i].m.Put(key, v)
				all[i].want[key] = v
			}
		}
		for _, p := range all {
			if got := maps.Collect(p.m.All()); !maps.Equal(got, p.want) || p.m.Len() != len(p.want) {
				t.Fatalf("got %v (Len %d), want %v", got, p.m.Len(), p.want)
			}
			for key := range 41 {
				got, ok := p.m.Get(strconv.Itoa(key))
				if want, there := p.want[strconv.Itoa(key)]; got != want || ok != there {
					t.Fatalf("Get(%d) is %d, %v; want %d, %v", key, got, ok, want, there)
				}
			}
		}
	})
}

// Readers and forks of a Map that nobody writes do not disturb each other.
func TestManyReadAndForkAtOnce(t *testing.T) {
	m := new(Map[int, int])
	for i := range 1000 {
		m.Put(i, i)
	}
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			mine := m.Fork()
			for i := range 1000 {
				mine.Put(i, n)
				if v, ok := m.Get(i); v != i || !ok {
					t.Errorf("Get(%d) is %d, %v", i, v, ok)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkForkAndPut(b *testing.B) {
	m := new(Map[string, *int])
	for i := range 100_000 {
		m.Put("rule-"+strconv.Itoa(i), &i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Fork().Put("rule-"+strconv.Itoa(i%100_000), &i)
	}
}

// A domain of few objects is forked for each change of one, and by each agent.
func BenchmarkForkAndPutFew(b *testing.B) {
	m := new(Map[string, *int])
	for i := range 3 {
		m.Put("rule-"+strconv.Itoa(i), &i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.Fork().Put("rule-"+strconv.Itoa(i%3), &i)
	}
}
