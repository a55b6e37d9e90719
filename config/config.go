// Package config is the one description of the bridge's settings: names, defaults, meanings, limits.
package config

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/imds-bridge/imds-bridge/imds"
)

//go:generate go test . -run TestReference -update

// Config holds every setting. The tags are the key in the file, the meaning, and, for a closed set,
// the values allowed; environment variables, flags and docs/config.md are derived from them.
type Config struct {
	Redirector  string      `yaml:"redirector" allowed:"auto ebpf iptables none" doc:"What brings calls to the bridge: a kernel hook on connect() (Linux 5.10 or newer), rules of iptables, or nothing, so that calls are watched only. auto takes the first of ebpf and iptables that this host can do, and says which."`
	Fail        string      `yaml:"fail" allowed:"open closed" doc:"What becomes of calls while the bridge is dead, hung or stopped: they go to IMDS as they are, or they are refused until it is back or imds-bridge cleanup ends that."`
	Mode        string      `yaml:"mode" allowed:"observe upgrade enforce" doc:"What becomes of v1 calls from the bridge's own network namespace: passed as they came, made with the bridge's own token, or refused."`
	Containers  Containers  `yaml:"containers" doc:"Calls from other network namespaces, which are containers in the main."`
	Redirect    Redirect    `yaml:"redirect" doc:"How calls are brought to the bridge."`
	Upstream    Upstream    `yaml:"upstream" doc:"The metadata service."`
	Limits      Limits      `yaml:"limits" doc:"What callers may take."`
	Attribution Attribution `yaml:"attribution" doc:"What is found out of callers beside their process. Nothing here holds up a call."`
	Admin       Admin       `yaml:"admin" doc:"Health, readiness, metrics and profiles."`
	Log         Log         `yaml:"log" doc:"The JSON lines on standard error."`

	from map[string]string // where a setting came from, by path; default if missing
}

// Containers are the settings for calls from other network namespaces.
type Containers struct {
	V1     string `yaml:"v1" allowed:"pass upgrade deny" doc:"What becomes of v1 calls from other network namespaces. With upgrade they get what the instance's hop limit may have kept from them."`
	Tokens string `yaml:"tokens" allowed:"hop-limit forward deny" doc:"What becomes of token requests from other network namespaces; hop-limit answers as far as the metadata service itself would have reached them."`
}

// Redirect are the settings of the kernel hook and of the listener behind it.
type Redirect struct {
	Cgroup           string         `yaml:"cgroup" doc:"The cgroup2 directory whose processes are redirected, with ebpf; rules of iptables know no cgroups and redirect the whole network namespace. Empty: the root, found or mounted by itself."`
	Listen           netip.AddrPort `yaml:"listen" doc:"Where redirected IPv4 connections arrive: a link-local address, added to lo if no interface has it, or one on loopback for a sidecar."`
	Listen6          netip.AddrPort `yaml:"listen6" doc:"The same for IPv6. Empty: the IPv6 endpoint is not redirected."`
	Containers       bool           `yaml:"containers" doc:"Whether calls from other network namespaces are redirected too. They then reach IMDS from the host: firewall rules, routes and policies for 169.254.169.254 that held them up on their way there do not hold up the bridge."`
	Mark             Mark           `yaml:"mark" doc:"SO_MARK of the bridge's own sockets to the metadata service, which are not redirected."`
	Heartbeat        time.Duration  `yaml:"heartbeat" doc:"Once the bridge has been silent for longer than this, calls go on without it, as fail says."`
	Connections      int            `yaml:"connections" doc:"Connections that the kernel's maps hold; the least recently used makes room."`
	CloseConnections bool           `yaml:"close_connections" doc:"Whether connections to IMDS that are older than the bridge are closed at its start, so that their owners come back through it."`
	Install          bool           `yaml:"install" doc:"Whether the bridge puts the rules of iptables in place itself. Without it, as in a sidecar without privileges, imds-bridge redirect install has to."`
}

// Upstream are the settings of the way to the metadata service.
type Upstream struct {
	IPv4    netip.AddrPort `yaml:"ipv4" doc:"Where calls to the IPv4 endpoint are forwarded."`
	IPv6    netip.AddrPort `yaml:"ipv6" doc:"Where calls to the IPv6 endpoint are forwarded."`
	Timeout time.Duration  `yaml:"timeout" doc:"From the request read to the head of the answer, a token fetch included; then the caller gets a 503. Most SDKs give up after 1s."`
}

// Limits keep one caller, or all together, from taking too much.
type Limits struct {
	Connections          int           `yaml:"connections" doc:"Connections at once, in all."`
	ConnectionsPerCaller int           `yaml:"connections_per_caller" doc:"Connections at once of one caller."`
	HeaderBytes          int           `yaml:"header_bytes" doc:"Size of a request's head."`
	BodyBytes            int           `yaml:"body_bytes" doc:"Size of a request's body."`
	ReadTimeout          time.Duration `yaml:"read_timeout" doc:"For a request to arrive whole."`
	WriteTimeout         time.Duration `yaml:"write_timeout" doc:"For an answer to be taken."`
	IdleTimeout          time.Duration `yaml:"idle_timeout" doc:"For the next request on a connection that is kept open."`
	Callers              int           `yaml:"callers" doc:"Callers whose identity is remembered."`
}

// Attribution are the settings of what is found out of callers.
type Attribution struct {
	Docker     string `yaml:"docker" doc:"Sockets of Docker's or Podman's API, which tell of containers: paths apart by spaces, auto for root's own, or empty for none. Access to such a socket is root on the host: see docs/attribution.md."`
	CRI        string `yaml:"cri" doc:"The same for the CRI of containerd and CRI-O."`
	Kubernetes string `yaml:"kubernetes" allowed:"auto on off" doc:"Whether the API server tells of this node's pods; auto in a pod that has a service account and attribution.node."`
	Node       string `yaml:"node" doc:"The name of the Kubernetes node, from the downward API."`
	ECS        string `yaml:"ecs" allowed:"auto on off" doc:"Whether the agent of Amazon ECS tells of tasks; auto where it answers on 127.0.0.1:51678."`
	Owner      string `yaml:"owner" doc:"Where the owner of a caller is looked for, in this order: sources apart by spaces, some with a key. See docs/attribution.md."`
	OwnerFile  string `yaml:"owner_file" doc:"Who owns what: a table (.csv) or a Backstage catalog (.yaml), for the source file."`
}

// DefaultOwner asks for a team first, then for a service, then for what runs it.
const DefaultOwner = "file pod.label:team pod.label:owner pod.annotation:team container.label:team container.label:owner " +
	"pod.label:app.kubernetes.io/part-of pod.label:tags.datadoghq.com/service pod.label:app.kubernetes.io/name " +
	"container.label:com.datadoghq.tags.service env:OTEL_SERVICE_NAME env:DD_SERVICE pod.workload ecs.service ecs.family " +
	"container.label:com.docker.compose.service container.name unit package user"

// Admin are the settings of the admin listener.
type Admin struct {
	Listen string `yaml:"listen" doc:"host:port on loopback, or unix:/path. Empty: off."`
}

// Log are the settings of the log.
type Log struct {
	Level slog.Level `yaml:"level" allowed:"debug info warn error" doc:"The least severe line written. v2 calls are at debug."`
}

// Mark is a socket mark, written in hexadecimal.
type Mark uint32

func (m Mark) String() string { return "0x" + strconv.FormatUint(uint64(m), 16) }

// Default returns the settings that hold where nothing else is said.
func Default() Config {
	return Config{
		Redirector: "auto",
		Fail:       "open",
		Mode:       "upgrade",
		Containers: Containers{V1: "pass", Tokens: "hop-limit"},
		Redirect: Redirect{
			Listen:      netip.MustParseAddrPort("169.254.20.254:8254"),
			Listen6:     netip.MustParseAddrPort("[fd69:6d64:7362::254]:8254"),
			Containers:  true,
			Mark:        0x2069,
			Heartbeat:   500 * time.Millisecond,
			Connections: 16384,
			Install:     true,
		},
		Upstream: Upstream{
			IPv4:    netip.AddrPortFrom(imds.IPv4, imds.Port),
			IPv6:    netip.AddrPortFrom(imds.IPv6, imds.Port),
			Timeout: 900 * time.Millisecond,
		},
		Limits: Limits{
			Connections:          1024,
			ConnectionsPerCaller: 128,
			HeaderBytes:          16384,
			BodyBytes:            16384,
			ReadTimeout:          5 * time.Second,
			WriteTimeout:         5 * time.Second,
			IdleTimeout:          30 * time.Second,
			Callers:              16384,
		},
		Attribution: Attribution{
			Docker:     "auto",
			CRI:        "auto",
			Kubernetes: "auto",
			ECS:        "auto",
			Owner:      DefaultOwner,
		},
		Admin: Admin{Listen: "127.0.0.1:8255"},
		Log:   Log{Level: slog.LevelInfo},
	}
}
