package run

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"testing"
	"time"
)

func TestGarbageIsAFixedAmountOfASmallHeapAndAShareOfALargeOne(t *testing.T) {
	for _, tt := range []struct {
		used uint64
		want int
	}{
		{0, 266}, // before the first collection nothing is known to be in use
		{1 << 20, 266},
		{4 << 20, 200},
		{8 << 20, 100},
		{16 << 20, 50},
		{1 << 30, 50},
	} {
		if got := garbagePercent(tt.used); got != tt.want {
			t.Errorf("of %d bytes in use: got %d %%, want %d", tt.used, got, tt.want)
		}
	}
}

// settings runs g until its collector has been set n times, and then to its end.
func settings(t *testing.T, g Garbage, n int) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const former = 123
	set := make(chan int, 16)
	g.set = func(percent int) int { set <- percent; return former }
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	var got []int
	for len(got) < n {
		runtime.GC()
		select {
		case percent := <-set:
			got = append(got, percent)
		case <-time.After(time.Millisecond): // it has not heard of the collection yet
		case <-ctx.Done():
			t.Fatalf("set %v, want %d settings", got, n)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(set)
	for percent := range set {
		got = append(got, percent)
	}
	return got
}

func TestGarbageFollowsWhatIsInUse(t *testing.T) {
	inUse := []uint64{2 << 20, 2<<20 + 1<<10, 4 << 20, 64 << 20}
	g := Garbage{Getenv: func(string) string { return "" }, used: func() uint64 {
		used := inUse[0]
		if len(inUse) > 1 {
			inUse = inUse[1:]
		}
		return used
	}}
	got := settings(t, g, 3)
	if want := []int{266, 200, garbageShare, 123}; !slices.Equal(got, want) {
		t.Errorf("set %v, want %v: small changes let be, and in the end what was before", got, want)
	}
}

func TestGarbageLeavesItToAnOperatorWhoHasDecided(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		g := Garbage{Getenv: func(asked string) string {
			if asked == name {
				return "off"
			}
			return ""
		}}
		if got := settings(t, g, 0); len(got) != 0 {
			t.Errorf("with %s: set %v", name, got)
		}
	}
}

// collectorPercent is what the collector is set to.
func collectorPercent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestLoadingCollectsLessUnlessAnOperatorHasDecided(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(150))
	for _, tt := range []struct {
		name  string
		while uint64
	}{
		{"", 200},
		{"GOGC", 150},
		{"GOMEMLIMIT", 150},
	} {
		t.Run("set:"+tt.name, func(t *testing.T) {
			if tt.name != "" {
				t.Setenv(tt.name, "50")
			}
			lost := errors.New("no store")
			if got, err := Loading(func() (uint64, error) { return collectorPercent(), lost }); got != tt.while || !errors.Is(err, lost) {
				t.Errorf("while it loads: %d %% and %v, want %d %% and what the load returned", got, err, tt.while)
			}
			if got := collectorPercent(); got != 150 {
				t.Errorf("afterwards: %d %%, want 150 as before", got)
			}
		})
	}
}
