package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/attest"
)

// A serving point outlives its agent: it goes on deciding by what it was told
// last. So an agent that has just started must not ack a change for points that
// it does not see yet. Who they are is in points.cache, which is on disk before
// a point gets its first slice; those whose process lives are absent, and waited
// for like points that have not swapped.

// lookEvery is how often processes of absent points are looked for: one that has
// ended decides nothing any more.
const lookEvery = 100 * time.Millisecond

// pointsCache is points.cache.
type pointsCache struct {
	Form   int          `json:"form"`
	Points []savedPoint `json:"points"`
}

// savedPoint is a process that serves, and at how many points.
type savedPoint struct {
	PID     int32  `json:"pid"`
	Started uint64 `json:"started"`
	Count   int    `json:"count"`
}

// savePoints writes down who serves now, unless the agent is stopping: then it
// stays as it was, since all will be back.
func (a *Agent) savePoints() {
	a.savingPoints.Lock()
	defer a.savingPoints.Unlock()
	if a.frozen.Load() != nil {
		return
	}
	file := pointsCache{Form: cacheForm}
	for process, n := range a.points.serving() {
		file.Points = append(file.Points, savedPoint{process.PID, process.Started, n})
	}
	data, err := json.Marshal(file)
	if err == nil {
		err = a.files.write(a.files.points(), data)
	}
	a.cacheFailed(err)
}

// restorePoints makes those of before absent whose processes still run.
func (a *Agent) restorePoints() error {
	data, err := a.files.read(a.files.points(), maxSmallFile)
	if data == nil || err != nil {
		return err
	}
	var file pointsCache
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	if file.Form != cacheForm {
		return nil
	}
	for _, p := range file.Points {
		if process := (attest.Process{PID: p.PID, Started: p.Started}); p.Count > 0 && a.runs(process) {
			a.points.expect(process, p.Count)
			a.interest.everything(true) // what it answers for may have changed since this was written
		}
	}
	return nil
}

// runs reports whether a process is still there.
func (a *Agent) runs(process attest.Process) bool {
	peer, err := a.cfg.Processes.Find(process.PID)
	if err != nil {
		return false
	}
	if peer.PIDFD != nil {
		peer.PIDFD.Close()
	}
	return peer.Process() == process
}

// lookForAbsent forgets absent points whose processes have ended, until none is
// absent or ctx ends.
func (a *Agent) lookForAbsent(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for a.points.forget(a.runs) > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	a.interest.everything(false)
	return nil
}

// expect makes a process's points absent.
func (s *points) expect(process attest.Process, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent == nil {
		s.absent = make(map[attest.Process]absence)
	}
	s.absent[process] = absence{points: count}
}

// absence is how many points of a process are not back yet.
type absence struct {
	points int
	late   bool // waited for no more, and named in acks
}

// forget drops absent points whose processes do not run; it returns how many
// processes are left.
func (s *points) forget(runs func(attest.Process) bool) int {
	s.mu.Lock()
	var processes []attest.Process
	for process := range s.absent {
		processes = append(processes, process)
	}
	s.mu.Unlock()
	processes = slices.DeleteFunc(processes, runs)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, process := range processes {
		delete(s.absent, process)
	}
	if len(processes) > 0 {
		s.flush()
	}
	return len(s.absent)
}

// back notes that a point has attached and reports whether it was absent. The
// caller holds mu.
func (s *points) back(process attest.Process) bool {
	a, was := s.absent[process]
	if !was {
		return false
	}
	if a.points--; a.points > 0 {
		s.absent[process] = a
	} else {
		delete(s.absent, process)
	}
	return true
}

// missing reports whether somebody absent is waited for. The caller holds mu.
func (s *points) missing() bool {
	for _, a := range s.absent {
		if !a.late {
			return true
		}
	}
	return false
}

// giveUp waits for nobody absent any more. The caller holds mu.
func (s *points) giveUp() {
	for process, a := range s.absent {
		a.late = true
		s.absent[process] = a
	}
}

// absentees names those who are waited for no more. The caller holds mu.
func (s *points) absentees() []string {
	var out []string
	for process, a := range s.absent {
		if a.late {
			out = append(out, fmt.Sprintf("pid %d: has not attached again since this agent started", process.PID))
		}
	}
	return out
}

// serving is how many serving points each process has, the absent ones among
// them.
func (s *points) serving() map[attest.Process]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[attest.Process]int)
	for p := range s.all {
		if p.open.GetServes() && !p.inside {
			out[p.peer.Process()]++
		}
	}
	for process, a := range s.absent {
		out[process] += a.points
	}
	return out
}
