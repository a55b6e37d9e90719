package main

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/container/cri"
	"github.com/imds-bridge/imds-bridge/caller/container/docker"
	"github.com/imds-bridge/imds-bridge/caller/container/ecs"
	"github.com/imds-bridge/imds-bridge/caller/container/kubernetes"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/config"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/report"
)

// attributor is what tells of callers besides their processes.
type attributor struct {
	*attribution.Attributor
	containers *container.Directory
	software   *software.Finder // nil where the process may open too few files
	tags       *tags
	variables  []string // of callers' environments, that it looks at
}

// newAttributor begins to watch its sources.
func newAttributor(c config.Config, log *slog.Logger) (_ *attributor, err error) {
	rules, mapping, err := checkAttribution(c.Attribution)
	if err != nil {
		return nil, err
	}
	if mapping != nil {
		log.Info("owners read", "file", c.Attribution.OwnerFile, "entries", mapping.Entries, "without_owner", mapping.Ownerless)
	}
	list, err := sources(c.Attribution, log)
	if err != nil {
		return nil, err
	}
	a := &attributor{tags: &tags{names: owner.Tags(rules)}, variables: attribution.Variables(rules)}
	if a.software, err = newFinder(log); err != nil {
		return nil, err
	}
	a.containers = container.Open(log, list...)
	a.Attributor = attribution.New(attribution.Options{
		Containers: a.containers, Software: a.software, Rules: rules, Mapping: mapping,
		Tags: a.tags.get, Size: c.Limits.Callers,
	})
	return a, nil
}

// checkAttribution reads the rules for owners and their file, and refuses those that are wrong. The mapping
// is nil where there is no file.
func checkAttribution(c config.Attribution) ([]owner.Rule, *owner.Mapping, error) {
	rules, err := owner.ParseRules(c.Owner)
	if err != nil {
		return nil, nil, usage(fmt.Errorf("attribution.owner: %w", err))
	}
	if c.OwnerFile == "" {
		return rules, nil, nil
	}
	mapping, err := owner.LoadMapping(c.OwnerFile)
	if err != nil {
		return nil, nil, usage(fmt.Errorf("attribution.owner_file: %w", err))
	}
	return rules, mapping, nil
}

// filesOfFinder is what looking at software needs of the open files that the process may have.
const filesOfFinder = 1024

func newFinder(log *slog.Logger) (*software.Finder, error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("read the limit of open files: %w", err)
	}
	if files.Cur < filesOfFinder {
		log.Warn("the libraries of callers are not looked for: the process may not open as many files as that takes (systemd: LimitNOFILE=)", "files", files.Cur, "needed", filesOfFinder)
		return nil, nil
	}
	return software.New(software.Options{Log: log})
}

// auto asks those that are where they usually are, now or later.
const auto = "auto"

// sources are those that the configuration names, the ones with the most weight first.
func sources(c config.Attribution, log *slog.Logger) (list []container.Source, err error) {
	for path := range sockets(c.Docker, "/run/docker.sock", "/run/podman/podman.sock") {
		list = append(list, named(c.Docker, docker.New(path)))
	}
	for path := range sockets(c.CRI, cri.Sockets()...) {
		list = append(list, named(c.CRI, cri.New(log, path)))
	}
	if c.Kubernetes == "on" || c.Kubernetes == auto && c.Node != "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		pods, err := inCluster(c.Node, log)
		switch {
		case err == nil:
			list = append(list, pods)
		case c.Kubernetes == auto:
			log.Warn("the API server is not asked about pods", "error", err.Error())
		default:
			return nil, err
		}
	}
	if c.ECS == "on" || c.ECS == auto && hasECSAgent() {
		tasks, err := ecs.New(ecs.Endpoint)
		if err != nil {
			return nil, err
		}
		list = append(list, tasks)
	}
	return list, nil
}

func inCluster(node string, log *slog.Logger) (container.Source, error) {
	o, err := kubernetes.InCluster(os.Getenv, node, log)
	if err != nil {
		return nil, usage(fmt.Errorf("attribution.kubernetes: %w", err))
	}
	pods, err := kubernetes.New(o)
	if err != nil {
		return nil, usage(fmt.Errorf("attribution.kubernetes: %w", err))
	}
	return pods, nil
}

// hasECSAgent tells whether an agent belongs here. Its port has no password: where there is none, any local
// user could listen there.
func hasECSAgent() bool {
	_, err := os.Stat("/etc/ecs")
	return err == nil
}

// sockets are those that a setting names.
func sockets(setting string, usual ...string) iter.Seq[string] {
	if setting == auto {
		return slices.Values(usual)
	}
	return strings.FieldsSeq(setting)
}

// named is a source that should be there if a setting names it.
func named(setting string, s container.Source) container.Source {
	if setting == auto {
		return container.Optional(s)
	}
	return s
}

func (a *attributor) close() {
	if a == nil {
		return
	}
	a.containers.Close()
	if a.software != nil {
		a.software.Close()
	}
}

// call attributes a call that is reported.
func (a *attributor) call(c *report.Call) *attribution.Attribution {
	return a.Of(attribution.Call{
		Caller: c.Caller, OtherNetwork: !c.Peer.OwnNetNS, Kind: c.Kind, Path: c.Path, Route: c.Route.Pattern,
		UserAgent: c.UserAgent, Status: c.Status, Answered: c.Status != 0 && c.Error != report.ErrorWithheld,
		Start: c.Start, End: c.End,
	})
}

// caller names a process while it waits for its answer, and begins to look for the rest.
func (b *bridge) caller(o caller.Origin) *caller.Caller {
	c := b.callers.Caller(o)
	b.attributor.Meet(c)
	return c
}

// tags are those of the instance that rules name.
type tags struct {
	names []string

	mu    sync.Mutex
	known map[string]string
}

func (t *tags) get() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known
}

const (
	// tagsEvery is how often tags are read again: they can change while the instance runs.
	tagsEvery = 10 * time.Minute
	// tagsAgain is when they are tried again after IMDS did not say.
	tagsAgain = 30 * time.Second
)

// watch reads the tags until ctx ends.
func (t *tags) watch(ctx context.Context, get func(path string) (text string, status int, err error)) {
	for len(t.names) > 0 {
		pause := tagsEvery
		if !t.read(get) {
			pause = tagsAgain
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// read tells whether IMDS said of each tag what it is, or that there is none: it answers 404 to all where
// the metadata option InstanceMetadataTags is disabled. What it does not say stays as it was.
func (t *tags) read(get func(path string) (text string, status int, err error)) (whole bool) {
	known := maps.Clone(t.get())
	if known == nil {
		known = make(map[string]string)
	}
	whole = true
	for _, name := range t.names {
		switch text, status, err := get(imds.TagsPath + name); {
		case err == nil && status == http.StatusOK:
			known[name] = caller.Printable(text, 256) // the longest that EC2 lets a tag's value be
		case err == nil && status == http.StatusNotFound:
			delete(known, name)
		default:
			whole = false
		}
	}
	t.mu.Lock()
	t.known = known
	t.mu.Unlock()
	return whole
}
