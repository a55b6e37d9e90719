package main

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/imds-bridge/imds-bridge/config"
)

// What is chosen by itself never keeps a bridge from its start.
func TestPodWithoutAServiceAccountIsNoReasonNotToStart(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "not a port")
	var log strings.Builder
	c := config.Attribution{Kubernetes: auto, Node: "node-1", ECS: "off"}
	list, err := sources(c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || len(list) != 0 || !strings.Contains(log.String(), "not asked about pods") {
		t.Errorf("%v, %v, %s", list, err, log.String())
	}
	c.Kubernetes = "on"
	if _, err := sources(c, slog.New(slog.DiscardHandler)); !errors.Is(err, errUsage) {
		t.Errorf("asked for, and not to be had: %v", err)
	}
}

func TestSourcesAreThoseThatAreNamed(t *testing.T) {
	t.Parallel()
	c := config.Attribution{Docker: "/a.sock /b.sock", CRI: "/c.sock", Kubernetes: "off", ECS: "on"}
	list, err := sources(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		names = append(names, s.Name())
	}
	if got := strings.Join(names, " "); got != "docker docker cri ecs" {
		t.Error(got)
	}
}

func TestTagsStayWhereIMDSDoesNotSay(t *testing.T) {
	t.Parallel()
	says := map[string]int{"team": http.StatusOK, "owner": http.StatusNotFound}
	get := func(path string) (string, int, error) {
		name, ok := strings.CutPrefix(path, "/latest/meta-data/tags/instance/")
		if status := says[name]; ok && status != 0 {
			return "value of " + name, status, nil
		}
		return "", 0, errors.New("no answer")
	}
	tags := &tags{names: []string{"team", "owner"}}
	for _, step := range []struct {
		team, owner int
		whole       bool
		want        map[string]string
	}{
		{0, http.StatusNotFound, false, map[string]string{}},
		{http.StatusOK, http.StatusNotFound, true, map[string]string{"team": "value of team"}},
		{http.StatusUnauthorized, http.StatusOK, false, map[string]string{"team": "value of team", "owner": "value of owner"}},
		{http.StatusNotFound, 0, false, map[string]string{"owner": "value of owner"}},
	} {
		says["team"], says["owner"] = step.team, step.owner
		if whole := tags.read(get); whole != step.whole || !maps.Equal(tags.get(), step.want) {
			t.Errorf("team %d, owner %d: %t, %v", step.team, step.owner, whole, tags.get())
		}
	}
}
