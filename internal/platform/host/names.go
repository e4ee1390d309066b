package host

import (
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"
)

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
	maxNames   = 1024
)

// names turns user and group numbers into names and remembers the answers for
// as long as the files they come from stay as they are.
type names struct {
	users, groups table
}

// table is guarded by its own mutex.
type table struct {
	mu      sync.Mutex
	changed time.Time
	known   map[uint32]string
}

// user is the name of a user number, "" when it has none.
func (n *names) user(uid uint32) string {
	return n.users.get(passwdFile, uid, func(id string) string {
		u, err := user.LookupId(id)
		if err != nil {
			return ""
		}
		return u.Username
	})
}

// group is the name of a group number, "" when it has none.
func (n *names) group(gid uint32) string {
	return n.groups.get(groupFile, gid, func(id string) string {
		g, err := user.LookupGroupId(id)
		if err != nil {
			return ""
		}
		return g.Name
	})
}

func (t *table) get(file string, id uint32, look func(string) string) string {
	var changed time.Time
	if info, err := os.Stat(file); err == nil {
		changed = info.ModTime()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || !t.changed.Equal(changed) || len(t.known) >= maxNames {
		t.known, t.changed = make(map[uint32]string), changed
	}
	name, ok := t.known[id]
	if !ok {
		name = look(strconv.FormatUint(uint64(id), 10))
		t.known[id] = name
	}
	return name
}
