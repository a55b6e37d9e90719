package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/imds-bridge/imds-bridge/lab"
)

// place is where all is measured: a lab with the metadata service and the collector running.
type place struct {
	ctx  context.Context
	lab  *lab.Lab
	self string // this program
	dir  string // scratch
	// container is one beside the host.
	container *lab.Namespace
}

func newPlace(ctx context.Context) (_ *place, err error) {
	p := &place{ctx: ctx}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.self, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	if p.dir, err = os.MkdirTemp("", "imds-bridge-bench"); err != nil {
		return nil, fmt.Errorf("make a scratch directory: %w", err)
	}
	if err := os.Chmod(p.dir, 0o755); err != nil { // nginx's workers are not root
		return nil, err
	}
	if p.lab, err = lab.New(lab.Options{}); err != nil {
		return nil, err
	}
	if p.container, err = p.lab.AddContainer("container"); err != nil {
		return nil, err
	}
	if _, err := p.serve(p.lab.IMDS().StartOutside, imdsAddr.String(), p.self, "upstream"); err != nil {
		return nil, err
	}
	_, err = p.serve(p.lab.Host().StartOutside, collectorAddr, p.self, "collect")
	return p, err
}

func (p *place) close() error {
	var err error
	if p.lab != nil {
		err = p.lab.Close()
	}
	if p.dir != "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return err
}

// serve starts a server and returns its process when it can be reached from the host.
func (p *place) serve(start func(*exec.Cmd) error, addr string, program string, args ...string) (*os.Process, error) {
	cmd := exec.Command(program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // the lab ends it
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := p.lab.Host().DialContext(p.ctx, "tcp", addr)
		if err == nil {
			c.Close()
			return cmd.Process, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %w: %s", program, err, strings.TrimSpace(stderr.String()))
		default:
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("wait for %s: %w", program, err)
		}
	}
}

// role runs this program in a role, in the place that start stands for, and decodes what it prints.
func (p *place) role(start func(*exec.Cmd) error, out any, args ...string) error {
	cmd := exec.CommandContext(p.ctx, p.self, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
		return fmt.Errorf("read what %s printed: %w", args[0], err)
	}
	return nil
}

// pause lets what is left of the work behind a call come to its end.
func (p *place) pause(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// freeAddr is an address on the host's loopback where nothing listens.
func (p *place) freeAddr() (netip.AddrPort, error) {
	l, err := p.lab.Host().Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort(), nil
}
