package host

import "testing"

func TestUnitIsOnlyAServiceOfTheSystemManager(t *testing.T) {
	hybrid := "12:cpu,cpuacct:/\n1:name=systemd:"
	for _, c := range []struct {
		name, text, unit, slice string
		deeper                  bool
	}{
		{"v2", "0::/system.slice/orders.service\n", "orders.service", "system.slice", false},
		{"v1", hybrid + "/system.slice/orders.service\n", "orders.service", "system.slice", false},
		{"hybrid agrees", hybrid + "/system.slice/orders.service\n0::/system.slice/orders.service\n", "orders.service", "system.slice", false},
		{"hybrid, v2 unused", hybrid + "/system.slice/orders.service\n0::/\n", "orders.service", "system.slice", false},
		{"hybrid disagrees", hybrid + "/system.slice/orders.service\n0::/system.slice/web.service\n", "", "", false},
		{"template in its slice", "0::/system.slice/system-pg.slice/pg@15.service\n", "pg@15.service", "system-pg.slice", false},
		{"slice in slice", "0::/system.slice/system-a.slice/system-a-b.slice/x.service\n", "x.service", "system-a-b.slice", false},
		{"slice under the wrong parent", "0::/system.slice/user-1000.slice/x.service\n", "", "", false},
		{"delegated", "0::/system.slice/orders.service/worker\n", "orders.service", "system.slice", true},
		{"container in a service", "0::/system.slice/containerd.service/kubepods/pod1\n", "containerd.service", "system.slice", true},
		{"user session", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/system.slice/orders.service\n", "", "", false},
		{"scope", "0::/system.slice/docker-abc.scope\n", "", "system.slice", false},
		{"no unit", "0::/system.slice/system-a.slice\n", "", "system-a.slice", false},
		{"escaped", "0::/system.slice/_cgroup.service\n", "cgroup.service", "system.slice", false},
		{"dashes stay escaped", `0::/system.slice/a\x2db.service` + "\n", `a\x2db.service`, "system.slice", false},
		{"leaves the namespace", "0::/../system.slice/orders.service\n", "", "", false},
		{"dots inside", "0::/system.slice/../system.slice/orders.service\n", "", "", false},
		{"empty part", "0::/system.slice//orders.service\n", "", "", false},
		{"only the suffix", "0::/system.slice/.service\n", "", "system.slice", false},
		{"look-alike slice", "0::/system.slice.d/orders.service\n", "", "", false},
		{"colon in the path", "0::/system.slice/a:b.service\n", "a:b.service", "system.slice", false},
		{"second v2 line", "0::/system.slice/a.service\n0::/system.slice/b.service\n", "", "", false},
		{"controllers on hierarchy 0", "0:name=x:/system.slice/a.service\n", "", "", false},
		{"garbage", "system.slice/orders.service", "", "", false},
		{"empty", "", "", "", false},
	} {
		unit, slice, deeper := systemdPlace(c.text)
		if unit != c.unit || slice != c.slice || deeper != c.deeper {
			t.Errorf("%s: got %q in %q deeper %v, want %q in %q deeper %v", c.name, unit, slice, deeper, c.unit, c.slice, c.deeper)
		}
	}
}

func FuzzSystemdPlace(f *testing.F) {
	f.Add("0::/system.slice/orders.service\n")
	f.Add("1:name=systemd:/system.slice/system-a.slice/a@b.service/x\n0::/\n")
	f.Fuzz(func(t *testing.T, text string) {
		unit, slice, _ := systemdPlace(text)
		if unit != "" && slice == "" {
			t.Fatalf("unit %q without a slice from %q", unit, text)
		}
	})
}
