package host

import "strings"

// systemdPlace says in which unit and slice a process is, from the text of
// /proc/PID/cgroup. Only services of the system manager count: the path starts
// with system.slice. Anything unexpected - a second hierarchy that disagrees, a
// path that leaves the cgroup namespace, a slice under the wrong parent - gives
// nothing. deeper says that the process sits below the unit's own cgroup, which
// a service with Delegate= may do, but so may a container manager.
func systemdPlace(text string) (unit, slice string, deeper bool) {
	path, ok := systemdPath(text)
	if !ok {
		return "", "", false
	}
	return placeOf(path)
}

// systemdPath is the process's path in the hierarchy that systemd owns: the
// named v1 hierarchy, the v2 one, or both when they agree.
func systemdPath(text string) (string, bool) {
	var v1, v2 string
	var has1, has2 bool
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		id, rest, ok := strings.Cut(line, ":")
		if !ok || id == "" {
			return "", false
		}
		controllers, path, ok := strings.Cut(rest, ":")
		if !ok {
			return "", false
		}
		switch {
		case id == "0" && controllers == "":
			if has2 {
				return "", false
			}
			v2, has2 = path, true
		case controllers == "name=systemd":
			if has1 {
				return "", false
			}
			v1, has1 = path, true
		}
	}
	switch {
	case has1 && has2 && v2 != "/" && v1 != v2:
		return "", false
	case has1:
		return v1, true
	default:
		return v2, has2
	}
}

func placeOf(path string) (unit, slice string, deeper bool) {
	rest, ok := strings.CutPrefix(path, "/system.slice/")
	if !ok {
		return "", "", false
	}
	slice = "system.slice"
	parts := strings.Split(rest, "/")
	for i, part := range parts {
		name := unescapeUnit(part)
		switch {
		case name == "" || name == "." || name == "..":
			return "", "", false
		case strings.HasSuffix(name, ".slice"):
			// system.slice holds system-a.slice, which holds system-a-b.slice.
			parent := strings.TrimSuffix(slice, ".slice")
			if !strings.HasPrefix(name, parent+"-") {
				return "", "", false
			}
			slice = name
		case strings.HasSuffix(name, ".service") && name != ".service":
			return name, slice, i < len(parts)-1
		default: // a scope, socket, mount: a slice but no service
			return "", slice, i < len(parts)-1
		}
	}
	return "", slice, false
}

// unescapeUnit undoes systemd's cgroup escaping: a name that could be mistaken
// for a kernel file has an underscore in front.
func unescapeUnit(name string) string { return strings.TrimPrefix(name, "_") }
