package attribution

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/imds-bridge/imds-bridge/caller"
	"github.com/imds-bridge/imds-bridge/caller/container"
	"github.com/imds-bridge/imds-bridge/caller/owner"
	"github.com/imds-bridge/imds-bridge/caller/software"
	"github.com/imds-bridge/imds-bridge/imds"
	"github.com/imds-bridge/imds-bridge/imds/client"
)

const (
	// defaultSize remembers that many processes.
	defaultSize = 16384
	// strangersKept bounds the User-Agents of those whose process is not known.
	strangersKept = 64
	// sharedKept bounds what processes share, of each kind.
	sharedKept = 512
)

// Options are what an Attributor asks. Each may be left out.
type Options struct {
	Containers *container.Directory
	Software   *software.Finder
	Rules      []owner.Rule
	Mapping    *owner.Mapping
	// Tags returns the tags of the instance that are known by now.
	Tags func() map[string]string
	// Size is how many processes are remembered; 0 means 16384.
	Size int
}

// Attributor attributes calls. It is safe for concurrent use.
type Attributor struct {
	options   Options
	known     *lru.Cache[image, *subject]
	strangers *lru.Cache[string, *client.Client] // by User-Agent
	people    shared[Who]
	claims    shared[claim]
	clients   shared[client.Client]
	advice    *lru.Cache[advised, *client.Advice]
}

// image tells apart what a process can be, as package caller does.
type image struct {
	pid      uint32
	started  time.Duration
	execID   uint64
	cgroupID uint64
}

// New returns an Attributor. It keeps nothing open.
func New(o Options) *Attributor {
	a := &Attributor{options: o}
	a.people, a.claims, a.clients = newShared[Who](), newShared[claim](), newShared[client.Client]()
	a.advice, _ = lru.New[advised, *client.Advice](sharedKept)
	a.strangers, _ = lru.New[string, *client.Client](strangersKept)
	a.known, _ = lru.New[image, *subject](cmp.Or(max(o.Size, 0), defaultSize)) // fails for a size below 1 alone
	return a
}

// Variables are those of a caller's environment that are looked at: those that rules name, and those that
// name a service.
func Variables(rules []owner.Rule) []string {
	names := append([]string{}, owner.ServiceVariables...)
	for _, name := range owner.Variables(rules) {
		if name != owner.ServiceVariables[0] && name != owner.ServiceVariables[1] {
			names = append(names, name)
		}
	}
	return names
}

// Meet is told of each caller while it waits for its answer, since a short-lived one is gone after it.
// What takes longer than some system calls is begun in the background.
func (a *Attributor) Meet(c *caller.Caller) {
	if c == nil || !c.Complete || c.PID == 0 {
		return
	}
	key := image{c.PID, c.Origin.Started, c.ExecID, c.CgroupID}
	if _, ok := a.known.Get(key); ok {
		return
	}
	s := &subject{}
	if _, raced, _ := a.known.PeekOrAdd(key, s); raced {
		return
	}
	if a.options.Containers != nil {
		a.options.Containers.Get(place(c))
	}
	if a.options.Software != nil {
		a.options.Software.Of(c)
	}
}

// Of attributes a call.
func (a *Attributor) Of(call Call) *Attribution {
	c := call.Caller
	if c == nil || !c.Complete || c.PID == 0 {
		return a.ofStranger(call)
	}
	a.Meet(c)
	s, ok := a.known.Get(image{c.PID, c.Origin.Started, c.ExecID, c.CgroupID})
	if !ok {
		s = &subject{} // pushed out meanwhile
	}
	return s.attribute(a, call)
}

// ofStranger is what a call of nobody that is known tells by itself.
func (a *Attributor) ofStranger(call Call) *Attribution {
	t := &Attribution{Who: nobody, Client: a.stranger(call.UserAgent)}
	if call.Kind == imds.V1 {
		t.Advice = a.advise(call, t.Client, nil)
	}
	return t
}

// stranger is the client that a User-Agent alone tells of.
func (a *Attributor) stranger(userAgent string) *client.Client {
	userAgent = shorten(userAgent)
	if known, ok := a.strangers.Get(userAgent); ok {
		return known
	}
	found := client.Identify(client.Evidence{UserAgent: userAgent})
	a.strangers.Add(strings.Clone(userAgent), &found)
	return &found
}

// Known returns what was attributed of a process last, and how many of its calls were of which kind; nil
// if it made none that are remembered.
func (a *Attributor) Known(pid uint32) *Record {
	var latest *Record
	for _, key := range a.known.Keys() {
		if key.pid != pid {
			continue
		}
		if s, ok := a.known.Peek(key); ok {
			if r := s.record(); r != nil && (latest == nil || r.Last.After(latest.Last)) {
				latest = r
			}
		}
	}
	return latest
}

// Record is what is remembered of a process's calls.
type Record struct {
	Attribution
	Caller         *caller.Caller // as of its last call
	V1, V2, Tokens uint64         // calls
	Last           time.Time
}

// subject is one process.
type subject struct {
	mu             sync.Mutex
	history        client.History
	caller         *caller.Caller // of the last call
	who            *Who
	tags           map[string]string // of the instance, for which who holds
	claims         [2]*claim         // of the User-Agents seen last, the one of the last call first
	advice         *client.Advice    // of the last v1 call
	last           int64             // when the last call began, in ns of Unix time; 0 before any
	v1, v2, tokens uint64
}

// claim is a User-Agent, and whose it is taken to be.
type claim struct {
	userAgent string
	v1        bool // it made a call by v1; another may come from other code of the process
	who       *Who // for which this holds
	client    *client.Client
}

// advised is what advice depends on.
type advised struct {
	client       client.Client
	path         string
	otherNetwork bool
	fallback     client.Fallback
	hasTokens    bool
}

// advise says the same to all processes that are to do the same.
func (a *Attributor) advise(call Call, by *client.Client, h *client.History) *client.Advice {
	key := advised{*by, call.Path, call.OtherNetwork, h.Fallback(), h.HasTokens()}
	if known, ok := a.advice.Get(key); ok {
		return known
	}
	advice := client.Advise(key.client, client.Seen{
		Kind: call.Kind, Path: call.Path, OtherNetwork: call.OtherNetwork, History: h,
	})
	if len(key.path) <= maxText { // a longer one is advised anew each time
		key.path = strings.Clone(key.path)
		a.advice.Add(key, &advice)
	}
	return &advice
}

// shared keeps one copy of what many processes have alike.
type shared[T comparable] struct{ kept *lru.Cache[T, *T] }

func newShared[T comparable]() shared[T] {
	kept, _ := lru.New[T, *T](sharedKept)
	return shared[T]{kept}
}

func (s shared[T]) copyOf(v T) *T {
	if known, ok := s.kept.Get(v); ok {
		return known
	}
	s.kept.Add(v, &v)
	return &v
}

func (s *subject) attribute(a *Attributor, call Call) *Attribution {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.Add(client.Call{
		At: call.Start, Kind: call.Kind, Path: call.Path, Route: call.Route, Status: call.Status,
		Answered: call.Answered, Took: call.End.Sub(call.Start), OtherNetwork: call.OtherNetwork,
	})
	s.learn(a, call.Caller)
	claimed := s.claimOf(a, call)
	t := &Attribution{Who: s.who, Client: claimed.client, Waste: s.history.Waste()}
	if call.Kind == imds.V1 {
		t.Advice = a.advise(call, claimed.client, &s.history)
	}
	s.count(call, t)
	return t
}

func (s *subject) count(call Call, t *Attribution) {
	s.last, s.caller = call.Start.UnixNano(), call.Caller
	switch call.Kind {
	case imds.V1:
		s.v1++
		s.advice = t.Advice // of the last v1 call: that is what is to be done
	case imds.V2:
		s.v2++
	case imds.TokenRequest:
		s.tokens++
	}
}

func (s *subject) record() *Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 {
		return nil
	}
	return &Record{
		Attribution: Attribution{Who: s.who, Client: s.claims[0].client, Advice: s.advice, Waste: s.history.Waste()},
		Caller:      s.caller,
		V1:          s.v1, V2: s.v2, Tokens: s.tokens, Last: time.Unix(0, s.last),
	}
}

// learn asks again what is known, and keeps what it has where nothing is new.
func (s *subject) learn(a *Attributor, c *caller.Caller) {
	var found *container.Container
	if a.options.Containers != nil {
		found = a.options.Containers.Get(place(c))
	}
	var runs *software.Software
	if s.who != nil {
		runs = s.who.Software
	}
	if runs == nil && a.options.Software != nil {
		if known, ok := a.options.Software.Of(c); ok {
			runs = known
		}
	}
	var tags map[string]string
	if a.options.Tags != nil {
		tags = a.options.Tags()
	}
	if s.who != nil && s.who.Container == found && s.who.Software == runs && maps.Equal(s.tags, tags) {
		return
	}
	s.tags = tags
	s.who = a.who(c, s, found, runs)
}

// claimOf remembers the answers to the User-Agents seen last: most processes have one or two.
func (s *subject) claimOf(a *Attributor, call Call) *claim {
	if call.Kind == imds.V1 && s.history.Fallback() != client.NoFallback {
		call.Kind = imds.TokenRequest // who asked for a token in vain calls on by v1
	}
	for n, known := range s.claims {
		if known != nil && known.who == s.who && known.userAgent == call.UserAgent && known.v1 == (call.Kind == imds.V1) {
			s.claims[0], s.claims[n] = known, s.claims[0]
			return known
		}
	}
	s.claims[0], s.claims[1] = a.claims.copyOf(claim{
		userAgent: unique.Make(shorten(call.UserAgent)).Value(), v1: call.Kind == imds.V1, who: s.who,
		client: a.clients.copyOf(identify(evidence(call, s.who), s.who.Software)),
	}), s.claims[0]
	return s.claims[0]
}

// identify is less sure of what is merely installed: a script can leave it alone, and call by itself.
func identify(e client.Evidence, runs *software.Software) client.Client {
	c := client.Identify(e)
	if c.Confidence != client.Certain || runs == nil || slices.ContainsFunc(runs.Libraries, isLoaded) {
		return c
	}
	e.Libraries = nil
	switch without := client.Identify(e); {
	case without.Name != c.Name:
		c.Confidence = client.Guess
	case without.Confidence != client.Certain:
		c.Confidence = client.Likely
	}
	return c
}

func isLoaded(l software.Library) bool { return l.Certainty == software.Loaded }

// maxText is of a User-Agent or a path, more than those of the table have; longer ones are looked at anew
// each time.
const maxText = 256

func shorten(s string) string { return s[:min(len(s), maxText)] }

func evidence(call Call, who *Who) client.Evidence {
	c := call.Caller
	e := client.Evidence{Kind: call.Kind, UserAgent: call.UserAgent, Executable: c.Executable, Script: c.Program.Script}
	for _, p := range c.Ancestors {
		e.Parents = append(e.Parents, p.Runs())
	}
	s := who.Software
	if s == nil {
		return e
	}
	if s.Program.Ecosystem == software.Go {
		e.Script = cmp.Or(s.Program.Name, e.Script)
		e.Libraries = append(e.Libraries, client.Library{Ecosystem: client.Go, Name: s.Program.Name, Version: s.Program.Version})
	}
	e.Package = client.Package(packageOf(s))
	for _, l := range s.Libraries {
		e.Libraries = append(e.Libraries, client.Library{Ecosystem: l.Ecosystem, Name: l.Name, Version: l.Version})
	}
	return e
}

// packageOf is that of the script, since the interpreter's says nothing of what it runs.
func packageOf(s *software.Software) (p struct{ Name, Version string }) {
	of := s.Package
	if s.ScriptPackage.Name != "" {
		of = s.ScriptPackage
	}
	p.Name, p.Version = of.Name, of.Version
	return p
}

// place is by what a directory knows a caller's container.
func place(c *caller.Caller) (id, podUID string) {
	if c.Place != nil {
		podUID = c.Place.PodUID
	}
	if c.ContainerRuntime == "lxc" {
		return "", podUID
	}
	return c.ContainerID, podUID
}
