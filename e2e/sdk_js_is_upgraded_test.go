package e2e

import (
	"os"
	"os/exec"
	"testing"
)

func TestSDKJSIsUpgraded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("clients/sdk-js")); err != nil {
		t.Fatal(err)
	}
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts")
	install.Dir = dir
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	checkUpgraded(t, client{args: []string{"node", "credentials.js"}, dir: dir, agent: "aws-sdk-nodejs/2.400.0 "})
}
