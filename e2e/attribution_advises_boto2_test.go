package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imds-bridge/imds-bridge/simulator"
)

// Boto 2 calls itself Python-urllib. By its library it is known all the same, from the second call on
// at the latest, and its owner is told what to do.
func TestAttributionAdvisesBoto2(t *testing.T) {
	t.Parallel()
	i := newInstance(t, simulator.Options{})
	owners := filepath.Join(t.TempDir(), "owners.csv")
	if err := os.WriteFile(owners, []byte("fact,pattern,owner\nscript,*,backup-team\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--attribution.docker=", "--attribution.cri=", "--attribution.ecs=off", "--attribution.kubernetes=off", "--attribution.owner_file=" + owners}
	b := i.startBridge(t, bridgeOptions{flags: flags})

	boto := i.startDialogue(t, client{args: []string{debianPython, "clients/boto2/again.py"}}.command())
	var line attributed
	await(t, "a log line with all that is to be known", 20*time.Second, func() (ok bool) {
		fmt.Fprintln(boto.in)
		if !boto.said.Scan() || boto.said.Text() == "" {
			t.Fatal("Boto 2 got no credentials")
		}
		time.Sleep(50 * time.Millisecond) // what the call set off is looked at behind it
		line, ok = b.find(t, func(a attributed) bool {
			return a.Caller.PID == boto.cmd.Process.Pid && a.By.Name == "boto2" && a.By.Version != "" && a.Caller.Package.Name != ""
		})
		return ok
	})
	script, err := filepath.Abs("clients/boto2/again.py")
	if err != nil {
		t.Fatal(err)
	}
	if line.Caller.Script != script || line.Caller.Owner.Name != "backup-team" || line.Caller.Package.Manager != "dpkg" || !strings.HasPrefix(line.Caller.Package.Name, "python3") {
		t.Errorf("log line: %s", line.raw)
	}
	if line.By.Version != boto2Version(t) || line.By.SpeaksV2 != "no" || !strings.Contains(line.By.From, "library") ||
		line.Advice.Code != "rewrite" || !strings.Contains(line.Advice.Text, "replace Boto 2 by Boto3") || !strings.Contains(line.Advice.Text, "no release of it speaks v2") || !strings.Contains(line.Advice.Link, "boto3") {
		t.Errorf("log line: %s", line.raw)
	}

	x, _ := i.explain(t, b, fmt.Sprint(boto.cmd.Process.Pid), flags...)
	x.check(t, "script", script, "arguments")
	x.check(t, "owner", "backup-team", "file: script "+script)
	x.check(t, "library", "boto "+line.By.Version+" (pypi, installed)", ".egg-info, of python3-boto "+debianVersion(t, "python3-boto"))
	x.check(t, "container", "none", "its cgroup")
	told := x.Processes[0].Calls
	if told.V1 == 0 || told.Client.Name != "boto2" || told.Client.Version != line.By.Version || told.Client.SpeaksV2 != "no" || told.Advice != line.Advice || len(x.Sources) != 0 {
		t.Errorf("explain: %+v, the log: %s", told, line.raw)
	}
}

func boto2Version(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(debianPython, "-c", "import boto; print(boto.__version__)").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
