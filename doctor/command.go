package doctor

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"
)

// run returns what a tool writes. An error has the first line of what it complained of.
func run(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.WaitDelay = time.Second
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", errors.New("no answer in time")
	}
	if err == nil {
		return out.String(), nil
	}
	line, _, _ := strings.Cut(strings.TrimSpace(complaint.String()), "\n")
	if line == "" {
		return "", err
	}
	return "", errors.New(line)
}
