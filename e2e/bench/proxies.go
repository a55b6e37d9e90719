package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Each proxy does one thing, as an engineer would set it up for that: it adds a header. It writes
// no access log, and closes after each answer, as IMDS does.

const nginxConfig = `
daemon off;
worker_processes %[1]d;
pid %[2]s/nginx.pid;
error_log %[2]s/nginx.log;
events { worker_connections 4096; }
http {
	access_log off;
	tcp_nodelay on;
	keepalive_timeout 0;
	client_body_temp_path %[2]s/client;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen %[3]s backlog=4096 reuseport;
		location / {
			proxy_pass http://%[4]s;
			proxy_set_header %[5]s %[6]s;
		}
	}
}
`

const haproxyConfig = `
global
	nbthread %[1]d
	maxconn 4096
	stats socket %[2]s/haproxy.sock
defaults
	mode http
	option httpclose
	timeout connect 1s
	timeout client 5s
	timeout server 5s
frontend calls
	bind %[3]s
	http-request set-header %[5]s %[6]s
	default_backend imds
backend imds
	server imds %[4]s
`

// proxy is what a client calls.
type proxy struct {
	name    string
	addr    string                // that the client dials
	token   bool                  // the client sends the token itself
	start   func(*exec.Cmd) error // starts a client where it is to call from
	direct  string                // the name of the same call without a proxy; "" for that itself
	atOnce  []int                 // how many calls a client has under way at once
	process *os.Process
	bridge  *bridge // nil for what others made
}

// complaint is what a bridge warned of last, in brackets.
func (x proxy) complaint() string {
	if x.bridge == nil {
		return ""
	}
	if said := x.bridge.complaint(); said != "" {
		return " (" + said + ")"
	}
	return " (the bridge says nothing of it)"
}

func (p *place) nginx() (proxy, error) {
	return p.common("nginx", nginxConfig, "-p", p.dir, "-e", filepath.Join(p.dir, "nginx.log"), "-c")
}

func (p *place) haproxy() (proxy, error) {
	return p.common("haproxy", haproxyConfig, "-db", "-f")
}

// common starts one of the proxies that others made.
func (p *place) common(name, config string, args ...string) (proxy, error) {
	program, err := lookPath(name)
	if err != nil {
		return proxy{}, err
	}
	addr, err := p.freeAddr()
	if err != nil {
		return proxy{}, err
	}
	file := filepath.Join(p.dir, name+".conf")
	text := fmt.Sprintf(config, runtime.NumCPU(), p.dir, addr, imdsAddr, tokenHeader, token)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return proxy{}, fmt.Errorf("configure %s: %w", name, err)
	}
	process, err := p.serve(p.lab.Host().StartOutside, addr.String(), program, append(args, file)...)
	return proxy{
		name: name, addr: addr.String(), direct: hostDirect, atOnce: concurrency,
		start: p.lab.Host().StartOutside, process: process,
	}, err
}

// lookPath also looks where an ordinary user's PATH does not lead.
func lookPath(name string) (string, error) {
	found, err := exec.LookPath(name)
	if err == nil {
		return found, nil
	}
	if found, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		return found, nil
	}
	return "", errors.New(strings.Join([]string{name, "is not installed: use make bench, or apt-get install", name}, " "))
}
