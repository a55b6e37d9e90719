// Package docker knows containers from Docker's Engine API, and from Podman's that is compatible with
// it. It asks with GET and changes nothing.
package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// kept bounds the containers and the images that are remembered here. A [container.Directory] keeps as
// many containers.
const kept = 4096

// Source is one daemon. It is safe for concurrent use, and keeps no connection while nobody watches.
type Source struct {
	socket string
	// patience is for one answer; a list has three times as long.
	patience time.Duration
	// pulse is how often a daemon must show that it lives.
	pulse time.Duration

	transport *http.Transport
	daemon    atomic.Pointer[daemon]
	images    *lru.Cache[string, *image]
}

// daemon is what a daemon says of itself.
type daemon struct {
	known  bool
	name   string   // docker or podman
	from   []string // the name, for all of its containers
	prefix string   // of the paths that it is asked for: "/v1.41"
}

// New is for the daemon that listens on a unix socket. Nothing is asked yet.
func New(socket string) *Source { return newSource(socket, 10*time.Second, 30*time.Second) }

func newSource(socket string, patience, pulse time.Duration) *Source {
	s := &Source{socket: socket, patience: patience, pulse: pulse}
	s.transport = s.newTransport()
	s.images, _ = lru.New[string, *image](kept) // fails for a size below 1 alone
	name := "docker"
	if strings.Contains(socket, "podman") {
		name = "podman"
	}
	s.daemon.Store(&daemon{name: name, from: []string{name}})
	return s
}

// Name is docker or podman, by what the daemon says of itself, and by its socket until it was asked.
func (s *Source) Name() string { return s.daemon.Load().name }

// Inspect asks about a container, running or not.
func (s *Source) Inspect(ctx context.Context, id string) (*container.Container, error) {
	if !s.daemon.Load().known {
		if err := s.greet(ctx); err != nil {
			return nil, err
		}
	}
	f, err := s.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	// What is known without the image is worth having.
	i, _ := s.image(ctx, f.imageID)
	return complete(s.sketch(f), i), nil
}

// greet asks the daemon what it is.
func (s *Source) greet(ctx context.Context) error {
	var version struct {
		APIVersion, MinAPIVersion string
		Components                []struct{ Name string }
	}
	if err := s.get(ctx, "/version", &version); err != nil {
		return err
	}
	prefix, err := versionPrefix(version.MinAPIVersion, version.APIVersion)
	if err != nil {
		return fmt.Errorf("versions of the API that %s speaks: %w", s.socket, err)
	}
	d := &daemon{known: true, name: "docker", prefix: prefix}
	for _, component := range version.Components {
		if strings.Contains(component.Name, "Podman") {
			d.name = "podman"
		}
	}
	d.from = []string{d.name}
	s.daemon.Store(d)
	return nil
}

// tested is the minor number of the version of the API that this package was written for, 1.41 of
// Docker 20.10. Older daemons are asked as they know it, newer ones as soon as they have given it up.
const tested = 41

// versionPrefix begins the paths of a daemon that speaks the versions from least to most.
func versionPrefix(least, most string) (string, error) {
	minor, err := minorVersion(most)
	if err != nil {
		return "", err
	}
	minor = min(minor, tested)
	if least != "" {
		low, err := minorVersion(least)
		if err != nil {
			return "", err
		}
		minor = max(minor, low)
	}
	return fmt.Sprintf("/v1.%d", minor), nil
}

func minorVersion(version string) (int, error) {
	digits, ok := strings.CutPrefix(version, "1.")
	minor, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not one of Docker's", caller.Printable(version, 64))
	}
	return int(minor), nil
}

// inspect asks about a container. The answer has its environment too, which is not kept.
func (s *Source) inspect(ctx context.Context, id string) (facts, error) {
	if !isDigits(id) {
		// The daemon would look for a container of that name.
		return facts{}, container.ErrUnknown
	}
	var found struct {
		ID, Name, Image string
		Config          struct {
			Image  string
			Labels map[string]string
		}
	}
	err := s.get(ctx, s.daemon.Load().prefix+"/containers/"+id+"/json", &found)
	if isStatus(err, http.StatusNotFound) {
		return facts{}, container.ErrUnknown
	}
	if err != nil {
		return facts{}, err
	}
	if found.ID != id {
		return facts{}, fmt.Errorf("inspect container %s: the answer is of another: %q", id, caller.Printable(found.ID, 64))
	}
	return facts{
		id: id, name: strings.TrimPrefix(found.Name, "/"),
		reference: found.Config.Image, imageID: found.Image, labels: found.Config.Labels,
	}, nil
}

// image asks about an image, once. It is nil without an error for one that there is no more, or that
// a proxy before the daemon does not let us ask about.
func (s *Source) image(ctx context.Context, id string) (*image, error) {
	digits := strings.TrimPrefix(id, "sha256:")
	if !isDigits(digits) {
		return nil, nil
	}
	if i, ok := s.images.Get(digits); ok {
		return i, nil
	}
	var found struct {
		RepoTags, RepoDigests []string
		Config                struct{ Labels map[string]string }
	}
	err := s.get(ctx, s.daemon.Load().prefix+"/images/sha256:"+digits+"/json", &found)
	if isStatus(err, http.StatusNotFound) || isStatus(err, http.StatusForbidden) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	i := newImage(found.RepoTags, found.RepoDigests, found.Config.Labels)
	s.images.Add(digits, i)
	return i, nil
}

// list tells of each container that runs. One whose labels are too long to be read is left out.
func (s *Source) list(ctx context.Context, tell func(facts)) error {
	ctx, cancel := context.WithTimeout(ctx, 3*s.patience)
	defer cancel()
	body, err := s.open(ctx, s.daemon.Load().prefix+"/containers/json")
	if err != nil {
		return err
	}
	defer body.Close()
	all := newObjects(body, maxAnswer)
	for {
		text, err := all.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, errTooLong) {
			continue
		}
		var found struct {
			ID, Image, ImageID string
			Names              []string
			Labels             map[string]string
		}
		if err == nil {
			err = json.Unmarshal(text, &found)
		}
		if err != nil {
			return fmt.Errorf("list containers of %s: %w", s.socket, s.inTime(ctx, err))
		}
		if isDigits(found.ID) {
			tell(facts{id: found.ID, name: ownName(found.Names), reference: found.Image, imageID: found.ImageID, labels: found.Labels})
		}
	}
}
