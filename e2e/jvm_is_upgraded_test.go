package e2e

import (
	"os/exec"
	"testing"
)

func TestJVMIsUpgraded(t *testing.T) {
	t.Parallel()
	classes := t.TempDir()
	if out, err := exec.Command("javac", "-d", classes, "clients/jvm/Credentials.java").CombinedOutput(); err != nil {
		t.Fatalf("javac: %v\n%s", err, out)
	}
	checkUpgraded(t, client{args: []string{"java", "-classpath", classes, "Credentials"}, agent: "Java/"})
}
