package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const passed = `{"Action":"start"}
{"Action":"output","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"attr","Test":"TestA","Key":"outcome","Value":"{\"Fault\":\"SIGKILL\",\"Times\":2,\"V1\":10,\"V2\":9,\"FailedV2\":1,\"Straight\":1500000,\"Back\":-1,\"Slowest\":2000000000}"}
{"Action":"pass","Test":"TestA"}
`

func TestOutcomesBecomeATable(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	if err := run(strings.NewReader(passed), &shown, page); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"before\n" + begin, end + "after\n",
		"| SIGKILL | 2     | 10       | 9  | 0         | 1  | 0           | 2 ms           |            | 2000 ms |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "old") || !strings.Contains(shown.String(), "=== RUN   TestA\n") {
		t.Errorf("the page:\n%s\nshown:\n%s", text, &shown)
	}
}

func TestFailedTestLeavesThePage(t *testing.T) {
	t.Parallel()
	for name, events := range map[string]string{
		"failed":  passed + `{"Action":"fail","Test":"TestB"}`,
		"nothing": `{"Action":"pass","Test":"TestB"}`,
		"strange": `{"Action":"attr","Key":"outcome","Value":"?"}`,
	} {
		page := filepath.Join(t.TempDir(), "page.md")
		if err := os.WriteFile(page, []byte(begin+end), 0o600); err != nil {
			t.Fatal(err)
		}
		err := run(strings.NewReader(events), new(strings.Builder), page)
		text, reading := os.ReadFile(page)
		if err == nil || reading != nil || string(text) != begin+end {
			t.Errorf("%s: %v, %v, the page:\n%s", name, err, reading, text)
		}
	}
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("no place"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(strings.NewReader(passed), new(strings.Builder), page); err == nil {
		t.Error("a page without a place for the table was taken")
	}
}
