package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/imds-bridge/imds-bridge/attribution"
	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/config"
)

// How long explain waits for what a running bridge does not wait for.
const (
	sourcesPatience  = 2 * time.Second
	imagePatience    = time.Second // a container is known before its image is
	softwarePatience = 3 * time.Second
)

// maxExplained bounds the processes of a container that are explained.
const maxExplained = 64

func explainCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "explain <pid|container>",
		Short: "Say what the bridge knows of a running process or container, and from where",
		Long: `Say what the bridge would say of a process that runs here: what it is, where it runs,
what it runs, whose it is; and beside each thing, behind the arrow, from where that is known.
What it called, by which client and what is to be done about it is asked of the running bridge,
at admin.listen; without one, the rest is shown. Of a process that has ended the bridge is asked
for all that it remembers.

A container is named by its id, the beginning of that (12 digits or more), or its name or
that of its pod, as the sources of attribution.* tell it. Its processes are listed, with what
differs between them.

Needs root, or CAP_SYS_PTRACE and access to the sources' sockets. With less it shows
what can be read, and says what is missing. Give it the settings that the bridge has.

Exit codes: 0 found; 1 not found, or it could not be read; 2 the call or the configuration
is wrong.`,
		Example: `  imds-bridge explain 5123
  imds-bridge explain shop-web-1
  imds-bridge explain 009a36868dcb --output json | jq -r '.processes[].facts[] | select(.name == "owner").value'

  $ imds-bridge explain 5123
  process 5123
    process          python3, since 2026-11-22T10:41:07Z    ← /proc/5123/stat
    executable       /usr/bin/python3.11                    ← /proc/5123/exe
    script           /srv/report.py                         ← its arguments
    started by       cron /srv/report.py, process 5121      ← its ancestors
    …
    library          boto 2.49.0 (pypi, installed)          ← …/boto-2.49.0.egg-info, of python3-boto 2.49.0-4.1
    owner            finance                                ← file: script /srv/report.py
    calls            4 v1, 0 v2, 0 for a token; the last …  ← the running bridge
    client           Boto 2 2.49.0, guess; speaks v2: no    ← library
    advice           if this is Boto 2: replace it by …      ← its last v1 call`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usage(errors.New("explain takes one pid or container (see imds-bridge explain --help)"))
			}
			if !isPID(args[0]) && isNumber(args[0]) && len(args[0]) < minPrefix {
				return notMeant(args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usage(fmt.Errorf("--output %s: want text or json", output))
			}
			c, err := config.Load(os.Environ(), cmd.Flags())
			if err != nil {
				return usage(err)
			}
			e, err := newExplainer(c)
			if err != nil {
				return err
			}
			defer e.close()
			found, err := e.explain(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("explain %s: %w", caller.Printable(args[0], maxShown), err)
			}
			return found.write(cmd.OutOrStdout(), output)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if unknown := (&pflag.NotExistError{}); errors.As(err, &unknown) && isNumber(unknown.GetSpecifiedShortnames()) {
			return notMeant("-" + unknown.GetSpecifiedShortnames())
		}
		return cmd.Parent().FlagErrorFunc()(cmd, err)
	})
	config.Bind(cmd.Flags())
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

// explainer asks what a bridge asks, and waits for the answers.
type explainer struct {
	*attributor
	config   config.Config
	callers  *caller.Reader
	services *attribution.Attributor // its owners are services: it says which name is taken from where
	until    time.Time               // sources are waited for
}

func newExplainer(c config.Config) (*explainer, error) {
	a, err := newAttributor(c, slog.New(slog.DiscardHandler)) // what fails is in the report
	if err != nil {
		return nil, err
	}
	callers, err := caller.NewReader(caller.Options{Env: a.variables})
	if err != nil {
		a.close()
		return nil, err
	}
	rules, err := owner.ParseRules(serviceRules)
	if err != nil {
		a.close()
		return nil, err
	}
	return &explainer{
		attributor: a, config: c, callers: callers,
		services: attribution.New(attribution.Options{Containers: a.containers, Software: a.software, Rules: rules}),
		until:    time.Now().Add(sourcesPatience),
	}, nil
}

// explanation is all that was found out, and what stood in the way.
type explanation struct {
	Container string        `json:"container,omitempty"` // its id, where one was asked for
	Processes []explained   `json:"processes"`
	More      int           `json:"more_processes,omitempty"` // of the container, that are not explained
	Sources   []sourceState `json:"sources,omitempty"`        // of containers, where the process is in one
	Missing   []string      `json:"missing,omitempty"`        // what keeps more from being known
}

// explained is one process.
type explained struct {
	PID   uint32 `json:"pid"`
	Ended bool   `json:"ended,omitempty"` // what follows is the running bridge's memory
	Facts []fact `json:"facts"`
	Calls *calls `json:"calls,omitempty"` // of which the bridge knows
}

type sourceState struct {
	Source string `json:"source"`
	Ready  bool   `json:"ready"`
	Error  string `json:"error,omitempty"`
}

func (e *explainer) explain(ctx context.Context, what string) (*explanation, error) {
	x := &explanation{}
	var pids []int
	if isPID(what) {
		pid, _ := strconv.Atoi(what)
		pids = append(pids, pid)
	} else {
		var err error
		if x.Container, pids, err = e.findContainer(ctx, what); err != nil {
			return nil, err
		}
	}
	x.More = max(0, len(pids)-maxExplained)
	for _, pid := range pids[:len(pids)-x.More] {
		c, err := e.callers.Running(pid)
		switch {
		case err == nil:
			x.Processes = append(x.Processes, e.process(ctx, c))
		case x.Container == "" && errors.Is(err, caller.ErrNoProcess):
			return e.ended(ctx, uint32(pid))
		case x.Container == "":
			return nil, err
		case errors.Is(err, caller.ErrNoProcess): // it ended since it was listed
		default:
			x.Missing = append(x.Missing, err.Error())
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("broken off: %w", ctx.Err())
		}
	}
	if len(x.Processes) == 0 {
		return nil, errors.New("none of its processes runs any longer, or may be read")
	}
	if x.isContained() {
		if x.Sources = e.sourceStates(); len(x.Sources) == 0 {
			x.Missing = append(x.Missing, noSource)
		}
	}
	x.Missing = append(x.Missing, e.missing()...)
	e.askAll(ctx, x)
	return x, nil
}

// process finds out what is known of one, its calls apart.
func (e *explainer) process(ctx context.Context, c *caller.Caller) explained {
	if id, pod := containerOf(c); id != "" || pod != "" {
		e.await(ctx, e.allTold)
		e.await(ctx, func() bool { return e.containers.Get(id, pod) != nil }) // one that came since is asked about
		began := time.Now()
		e.await(ctx, func() bool {
			known := e.containers.Get(id, pod)
			return known == nil || !known.Partial || time.Since(began) > imagePatience
		})
	}
	var lookErr error
	if e.software != nil {
		looking, cancel := context.WithTimeout(ctx, softwarePatience)
		_, lookErr = e.software.Look(looking, c)
		cancel()
	}
	call := attribution.Call{Caller: c}
	known := e.Of(call)
	f := facts{pid: c.PID}
	f.process(c)
	f.place(c)
	f.container(c, known.Container)
	f.software(known.Software, lookErr, e.software == nil)
	f.owner(known, e.services.Of(call).Owner, e.rulesOnTags())
	f.client(known)
	return explained{PID: c.PID, Facts: f.list}
}

// containerOf is by what the directory knows the container of c.
func containerOf(c *caller.Caller) (id, pod string) {
	if c.Place != nil {
		pod = c.Place.PodUID
	}
	if c.ContainerRuntime == "lxc" { // that is a name, which none of the sources knows
		return "", pod
	}
	return c.ContainerID, pod
}

// await waits until what is wanted is known, or no source is left that could tell, or their time is over.
func (e *explainer) await(ctx context.Context, known func() bool) {
	for !known() && time.Now().Before(e.until) && e.mayTell() && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// allTold tells whether each source has told of all that there is, or cannot.
func (e *explainer) allTold() bool {
	for _, s := range e.containers.States() {
		if !s.Ready && s.Error == nil {
			return false
		}
	}
	return true
}

// mayTell tells whether a source is there, or has not been tried yet.
func (e *explainer) mayTell() bool {
	for _, s := range e.containers.States() {
		if s.Error == nil {
			return true
		}
	}
	return false
}

func (e *explainer) sourceStates() (states []sourceState) {
	for _, s := range e.containers.States() {
		states = append(states, stateOf(s))
	}
	return states
}

func stateOf(s container.State) sourceState {
	state := sourceState{Source: s.Source, Ready: s.Ready}
	switch {
	case s.Error != nil:
		state.Error = caller.Printable(s.Error.Error(), maxShown)
	case !s.Ready:
		state.Error = fmt.Sprintf("it has not answered within %s", sourcesPatience)
	}
	return state
}

func (x *explanation) isContained() bool {
	for _, p := range x.Processes {
		for _, f := range p.Facts {
			if f.Name == factContainer && f.Value != none {
				return true
			}
		}
	}
	return false
}

// missing says what this process is not allowed, and the bridge is.
func (e *explainer) missing() (list []string) {
	if lacking, err := missingCapabilities(caller.Capabilities); err != nil {
		list = append(list, err.Error())
	} else if len(lacking) > 0 {
		list = append(list, strings.Join(lacking, " ")+": without it the executable, the libraries and the variables of other users' processes cannot be read; run it as root")
	}
	if e.software == nil {
		list = append(list, fmt.Sprintf("open files: libraries are looked for where the process may have %d (ulimit -n)", filesOfFinder))
	}
	return list
}

// rulesOnTags tells whether an owner is looked for in the tags of the instance, which are asked of IMDS.
func (e *explainer) rulesOnTags() bool { return len(e.tags.names) > 0 }
