package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// demoURL is what the demo calls: the first thing an SDK asks for on its way to credentials.
const demoURL = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"

// demoCall is the answer to one call.
type demoCall struct {
	Status int    `json:"status"`
	Body   string `json:"body"`

	pid int // of the curl that called
}

// call runs curl where start puts it.
func (d *demo) call(start func(*exec.Cmd) error) (demoCall, error) {
	cmd := exec.CommandContext(d.ctx, d.curl, "--disable", "--silent", "--show-error", "--noproxy", "*",
		"--max-time", "5", "--write-out", `\n%{http_code}`, demoURL)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := start(cmd); err != nil {
		return demoCall{}, fmt.Errorf("start curl: %w", err)
	}
	if err := cmd.Wait(); err != nil {
		return demoCall{}, fmt.Errorf("call %s: %w: %s", demoURL, err, strings.TrimSpace(stderr.String()))
	}
	body, code, _ := cutLast(stdout.String(), "\n")
	status, err := strconv.Atoi(code)
	if err != nil {
		return demoCall{}, fmt.Errorf("read the status that curl saw: %w", err)
	}
	return demoCall{Status: status, Body: body, pid: cmd.Process.Pid}, nil
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
