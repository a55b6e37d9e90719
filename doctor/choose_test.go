package doctor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/redirect/iptables"
)

// modern is a host that can do everything.
func modern() Facts {
	return Facts{
		Wanted: Auto, Install: true, Kernel: Kernel{6, 1}, BTF: true, Lockdown: "integrity", Memlock: true,
		Missing: map[Redirector][]string{}, Tried: map[Redirector]error{},
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Facts)
		want   Redirector
		why    string // in the reason, or in the error where nothing is taken
	}{
		{"all is well", func(*Facts) {}, EBPF, "all that the hook needs"},
		{"proven", func(f *Facts) { f.Tried[EBPF] = nil }, EBPF, "a trial call came through"},
		{"old kernel", func(f *Facts) { f.Kernel = Kernel{4, 14} }, IPTables, "Linux 4.14 is older than 5.10"},
		{"just old enough", func(f *Facts) { f.Kernel = Kernel{5, 9} }, IPTables, "5.9"},
		{"the floor", func(f *Facts) { f.Kernel = Kernel{5, 10} }, EBPF, ""},
		{"a release that nobody understands", func(f *Facts) { f.Kernel = Kernel{} }, EBPF, ""},
		{"no BTF", func(f *Facts) { f.BTF = false }, IPTables, "no BTF"},
		{"lockdown", func(f *Facts) { f.Lockdown = "confidentiality" }, IPTables, "lockdown"},
		{"memlock", func(f *Facts) { f.Memlock = false }, IPTables, "locked memory"},
		{"no cgroup2", func(f *Facts) { f.Cgroup = errors.New("no cgroup2 is mounted") }, IPTables, "no cgroup2"},
		{"no cgroup2 for one service", func(f *Facts) { f.Cgroup, f.Part = errors.New("no cgroup2 is mounted"), true }, "", "not redirect.cgroup alone"},
		{"one service", func(f *Facts) { f.Part = true }, EBPF, ""},
		{"one service, and iptables asked for", func(f *Facts) { f.Wanted, f.Part = IPTables, true }, IPTables, "asked for"},
		{"hook taken", func(f *Facts) { f.Holder = "x (id 3) holds the hook alone" }, IPTables, "x (id 3)"},
		{"no CAP_BPF", func(f *Facts) { f.Missing[EBPF] = []string{"CAP_BPF"} }, IPTables, "CAP_BPF"},
		{"trial failed", func(f *Facts) { f.Tried[EBPF] = errors.New("went past") }, IPTables, "went past"},
		{"hook taken where the trial is not", func(f *Facts) { f.Holder, f.Tried[EBPF] = "x", nil }, IPTables, "x"},
		{"neither", func(f *Facts) { f.BTF, f.Tools = false, iptables.ErrMissing }, "", "iptables is missing"},
		{"both trials failed", func(f *Facts) {
			f.Tried[EBPF], f.Tried[IPTables] = errors.New("one"), errors.New("two")
		}, "", "two"},

		{"ebpf asked for", func(f *Facts) { f.Wanted = EBPF }, EBPF, "asked for"},
		{"ebpf asked for in vain", func(f *Facts) { f.Wanted, f.BTF = EBPF, false }, "", "no BTF"},
		{"iptables asked for", func(f *Facts) { f.Wanted, f.BTF = IPTables, false }, IPTables, "asked for"},
		{"iptables asked for in vain", func(f *Facts) { f.Wanted, f.Tools = IPTables, iptables.ErrMissing }, "", "iptables is missing"},
		{"a sidecar without privileges", func(f *Facts) {
			f.Wanted, f.Install, f.Tools, f.Missing[IPTables] = IPTables, false, iptables.ErrMissing, []string{"CAP_NET_ADMIN"}
		}, IPTables, "asked for"},
		{"none asked for", func(f *Facts) { f.Wanted = None }, None, "asked for"},
		{"none beside one that holds connect", func(f *Facts) { f.Wanted, f.Holder = None, "x" }, "", "x"},
		{"none asked for in vain", func(f *Facts) { f.Wanted, f.Missing[None] = None, []string{"CAP_BPF"} }, "", "CAP_BPF"},
		{"nonsense", func(f *Facts) { f.Wanted = "nft" }, "", `no redirector "nft"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := modern()
			tt.change(&f)
			taken, why, err := Choose(f)
			if err != nil {
				why = err.Error()
			}
			if taken != tt.want || !strings.Contains(why, tt.why) {
				t.Errorf("takes %q: %s; want %q: … %s …", taken, why, tt.want, tt.why)
			}
			if (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, ErrNoRedirector) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	ebpf := choice{redirector: EBPF, why: "x"}
	for _, tt := range []struct {
		name     string
		choice   choice
		findings []Finding
		wanted   Redirector
		want     Verdict
	}{
		{"nothing", ebpf, []Finding{{Status: OK}}, Auto, Usable},
		{"a limit", ebpf, []Finding{{Status: Limit}}, Auto, Limited},
		{"a failure", ebpf, []Finding{{Status: Fail}, {Status: Limit}}, Auto, Useless},
		{"something unknown", ebpf, []Finding{{Status: Unknown}}, Auto, Limited},
		{"something that was not asked", ebpf, []Finding{{Status: Unknown, left: true}}, Auto, Usable},
		{"a failure of the other", ebpf, []Finding{{Status: Fail, Concerns: IPTables}}, Auto, Usable},
		{"a failure of the one", ebpf, []Finding{{Status: Fail, Concerns: EBPF}}, EBPF, Useless},
		{"the second choice", choice{redirector: IPTables}, []Finding{{Status: Fail, Concerns: EBPF}}, Auto, Limited},
		{"the second choice, asked for", choice{redirector: IPTables}, nil, IPTables, Usable},
		{"none to be had", choice{err: ErrNoRedirector}, []Finding{{Status: OK}}, Auto, Useless},
	} {
		r := judge(tt.choice, tt.findings, tt.wanted)
		if r.Verdict != tt.want || len(r.Findings) != len(tt.findings)+1 {
			t.Errorf("%s: %s with %d findings, want %s", tt.name, r.Verdict, len(r.Findings), tt.want)
		}
	}
}

// only returns the findings of one status, as text.
func only(status Status, findings []Finding) (texts []string) {
	for _, f := range findings {
		if f.Status == status {
			texts = append(texts, f.Found+" | "+f.Means+" | "+f.Remedy)
		}
	}
	return texts
}

// expect fails unless a finding of the status says each of the words.
func expect(t *testing.T, findings []Finding, status Status, words ...string) {
	t.Helper()
	texts := only(status, findings)
	if !slices.ContainsFunc(texts, func(text string) bool {
		return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(text, word) })
	}) {
		t.Errorf("nothing is %q with %q in %+v", status, words, findings)
	}
}
