package obs

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// version is set by the linker in a release build:
//
//	-ldflags "-X github.com/kith-id/kith/internal/obs.version=v0.1.0"
var version string

// Version says which build this is.
type Version struct {
	Version  string `json:"version"`          // v0.1.0, or devel
	Commit   string `json:"commit,omitempty"` // full hash, if built inside a checkout
	Date     string `json:"date,omitempty"`   // of the commit, RFC 3339
	Modified bool   `json:"modified"`         // the checkout had local changes
	Go       string `json:"go"`
	Platform string `json:"platform"` // linux/amd64
}

// BuildVersion reads what the Go tool chain and the linker left in the binary.
func BuildVersion() Version {
	v := Version{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if v.Version == "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.time":
				v.Date = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	return v
}

// String is one line: "kith v0.1.0 (1a2b3c4d5e6f, go1.26.8, linux/amd64)".
func (v Version) String() string {
	facts := make([]string, 0, 3)
	if v.Commit != "" {
		commit := v.Commit[:min(12, len(v.Commit))]
		if v.Modified {
			commit += " with local changes"
		}
		facts = append(facts, commit)
	}
	facts = append(facts, v.Go, v.Platform)
	return "kith " + v.Version + " (" + strings.Join(facts, ", ") + ")"
}
