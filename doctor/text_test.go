package doctor

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func sample() Report {
	return judge(choice{redirector: IPTables, why: "ebpf cannot be had: the kernel has no BTF"}, []Finding{
		{Check: "kernel", Status: OK, Found: "Linux 5.10"},
		{Check: "btf", Status: Fail, Found: "none", Means: strings.Repeat("word ", 40), Remedy: "do <this>", Concerns: EBPF},
		{Check: "hooks", Status: Unknown, Found: "not seen"},
	}, Auto)
}

func TestText(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := sample().WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, line := range []string{
		"✓ ok       kernel         Linux 5.10\n",
		"✗ fail     btf            none\n                          word word",
		"\n                          → do <this>\n",
		"? unknown  hooks          not seen\n",
		"! limit    redirector     iptables\n",
		"\nusable, by iptables, with the limits above\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 26+textWidth {
			t.Errorf("%d wide: %s", n, line)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colour without a terminal")
	}
	b.Reset()
	_ = sample().WriteText(&b, true)
	if !strings.Contains(b.String(), "\x1b[31m✗ fail   \x1b[0m  btf") {
		t.Errorf("no colour in\n%s", b.String())
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Report{
		"usable, by ebpf": {Verdict: Usable, Redirector: EBPF},
		"not usable until the failures above are remedied": {Verdict: Useless, Redirector: EBPF},
		"not usable: no": {Verdict: Useless, Why: "no"},
	} {
		if got := r.summary(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The keys are a promise to scripts: docs/doctor.md.
func TestJSON(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	if err := sample().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatal(err)
	}
	keys := func(m map[string]any) (list []string) {
		for k := range m {
			list = append(list, k)
		}
		slices.Sort(list)
		return list
	}
	if k := keys(got); !slices.Equal(k, []string{"findings", "redirector", "schema", "verdict", "why"}) {
		t.Errorf("%v", k)
	}
	findings, _ := got["findings"].([]any)
	btf, _ := findings[1].(map[string]any)
	if k := keys(btf); !slices.Equal(k, []string{"check", "concerns", "found", "means", "remedy", "status"}) {
		t.Errorf("%v", k)
	}
	if got["verdict"] != "limited" || got["redirector"] != "iptables" || got["schema"] != float64(1) || btf["remedy"] != "do <this>" {
		t.Errorf("%s", b.String())
	}
}
