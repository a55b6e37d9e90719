package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
)

// minPrefix is how much of an id names a container: as much as runtimes show of one. No pid has as
// many digits.
const minPrefix = 12

const noSource = "no source of containers is on (attribution.docker, attribution.cri), so their names are not known"

// isPID tells whether that is how a pid is written.
func isPID(what string) bool {
	_, err := strconv.ParseUint(what, 10, 31)
	return err == nil && what[0] != '0'
}

// isNumber tells whether somebody may have taken that for a pid.
func isNumber(what string) bool {
	digits := strings.TrimPrefix(what, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func isHex(what string) bool { return strings.Trim(what, "0123456789abcdef") == "" }

func notMeant(what string) error {
	return usage(fmt.Errorf("explain %s: want a pid or a container (by its name, or %d digits or more of its id)", caller.Printable(what, maxShown), minPrefix))
}

// inhabited is a container that has processes.
type inhabited struct {
	id, pod string
	pids    []int
}

// findContainer returns the id and the processes of the container that is meant.
func (e *explainer) findContainer(ctx context.Context, what string) (id string, pids []int, err error) {
	all, err := inhabitedContainers("/proc")
	if err != nil {
		return "", nil, err
	}
	found := byID(all, what)
	if len(found) == 0 {
		found = e.byName(ctx, all, what)
	}
	switch len(found) {
	case 0:
		return "", nil, e.notFound(what)
	case 1:
		return found[0].id, found[0].pids, nil
	}
	ids := make([]string, len(found))
	for i, c := range found {
		ids[i] = c.id
	}
	return "", nil, fmt.Errorf("%d containers are meant: name one by its id: %s", len(found), strings.Join(ids, ", "))
}

func byID(all []inhabited, what string) (found []inhabited) {
	for _, c := range all {
		if c.id == what {
			return []inhabited{c}
		}
		if len(what) >= minPrefix && isHex(what) && strings.HasPrefix(c.id, what) {
			found = append(found, c)
		}
	}
	return found
}

// byName asks the sources what the containers are called that have processes. What holds a pod has its name
// too, and is meant where nothing else of the pod runs.
func (e *explainer) byName(ctx context.Context, all []inhabited, what string) (found []inhabited) {
	e.await(ctx, e.allTold)
	var holding []inhabited
	for _, c := range all {
		switch known := e.containers.Get(c.id, c.pod); {
		case known == nil || !slices.Contains(namesOf(known), what):
		case known.Pod != nil && known.Pod.Container == "" && known.Name != what:
			holding = append(holding, c)
		default:
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return holding
	}
	return found
}

func namesOf(c *container.Container) []string {
	names := []string{c.Name}
	if c.Pod != nil {
		names = append(names, c.Pod.Name, c.Pod.Namespace+"/"+c.Pod.Name)
	}
	if c.Task != nil {
		names = append(names, c.Task.Container)
	}
	return names
}

// notFound says where was looked in vain.
func (e *explainer) notFound(what string) error {
	text := "no process runs in a container of that id, nor in one of that name"
	switch {
	case isNumber(what):
		return usage(errors.New(text + ": want a pid or a container"))
	case len(what) < minPrefix && isHex(what):
		text = fmt.Sprintf("no process runs in a container of that name, and of an id %d digits or more are needed", minPrefix)
	}
	states := e.sourceStates()
	if len(states) == 0 {
		return errors.New(text + ": " + noSource)
	}
	var unasked []string
	for _, s := range states {
		if !s.Ready {
			unasked = append(unasked, s.Source+": "+s.Error)
		}
	}
	if len(unasked) == 0 {
		return errors.New(text)
	}
	return errors.New(text + ", as far as can be asked (" + strings.Join(unasked, "; ") + ")")
}

// inhabitedContainers goes through all processes once.
func inhabitedContainers(proc string) ([]inhabited, error) {
	dir, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	at := make(map[string]int)
	var all []inhabited
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		text, err := os.ReadFile(proc + "/" + name + "/cgroup")
		if err != nil {
			continue // it has ended
		}
		where := caller.ParseCgroup(string(text))
		if where.ContainerID == "" {
			continue
		}
		i, ok := at[where.ContainerID]
		if !ok {
			i = len(all)
			at[where.ContainerID] = i
			all = append(all, inhabited{id: where.ContainerID, pod: where.Place.PodUID})
		}
		all[i].pids = append(all[i].pids, pid)
	}
	slices.SortFunc(all, func(a, b inhabited) int { return strings.Compare(a.id, b.id) })
	for _, c := range all {
		slices.Sort(c.pids)
	}
	return all, nil
}
