package doctor

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOtherPrograms(t *testing.T) {
	t.Parallel()
	cilium := program{7, "cil_sock4_connect", "connect4", true, "/sys/fs/cgroup", here, allowMulti}
	for _, tt := range []struct {
		name   string
		change func(*program)
		status Status
		words  []string
		holds  bool
	}{
		{"Cilium", func(*program) {}, OK, []string{"Cilium", "multi", "both work"}, false},
		{"Cilium of old", func(p *program) { p.name = "sock4_connect" }, OK, []string{"Cilium"}, false},
		{"Cilium without multi", func(p *program) { p.flags = 0 }, Fail, []string{"exclusive", "refuses", "iptables"}, true},
		{"override at the same place", func(p *program) { p.flags = allowOverride }, Fail, []string{"override", "refuses"}, true},
		{"exclusive above", func(p *program) { p.place, p.flags = above, 0 }, Fail, []string{"refuses"}, true},
		{"override above", func(p *program) { p.place, p.flags = above, allowOverride }, Limit, []string{"no longer runs"}, false},
		{"exclusive below", func(p *program) { p.place, p.flags = below, 0 }, OK, []string{"runs before"}, false},
		{"of nobody known", func(p *program) { p.name = "mine" }, OK, []string{"share the hook"}, false},
		{"nameless", func(p *program) { p.name = "" }, OK, []string{"a program (id 7)"}, false},
		{"exclusive on egress", func(p *program) { p.hook, p.rewrite, p.flags = egress, false, 0 }, Limit, []string{"cannot be watched"}, false},
		{"systemd on egress", func(p *program) { p.name, p.hook, p.rewrite = "sd_fw_egress", egress, false }, OK, []string{"nobody else"}, false},
		{"a bridge", func(p *program) { p.name = "connect4" }, OK, []string{"1 program of a bridge"}, false},
	} {
		p := cilium
		tt.change(&p)
		found := hooks{programs: []program{p}}
		expect(t, judgeHooks(found, false), tt.status, tt.words...)
		if got := found.holder(); (got != "") != tt.holds || got != "" && !strings.Contains(got, "id 7") {
			t.Errorf("%s: held by %q", tt.name, got)
		}
	}
	expect(t, judgeHooks(hooks{}, false), OK, "nobody else")
	expect(t, judgeHooks(hooks{err: unix.EPERM}, false), Unknown, "root")
	expect(t, judgeHooks(hooks{err: unix.EINVAL}, false), Unknown, "cannot be asked")
}
